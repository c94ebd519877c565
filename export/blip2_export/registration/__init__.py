"""A bundle as a registered model, of Azure Machine Learning or of MLflow.

`facts` is what both are told and needs no package of either; `azure_ml` and `mlflow_registry` send it.
"""
