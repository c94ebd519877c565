"""Runs graphs with ONNX Runtime, where they are asked to run and nowhere else."""
