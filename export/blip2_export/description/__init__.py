"""Describes a bundle to people and registries: model card, bill of materials, MLflow's MLmodel.

All three are made of the manifest and the parity certificate alone, so the same bundle gives the same bytes.
"""
