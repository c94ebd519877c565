"""Registers a bundle as a model, with Azure Machine Learning or MLflow.

`facts` builds the entries of both, without their packages; `azure_ml` and `mlflow_registry` send them.
"""
