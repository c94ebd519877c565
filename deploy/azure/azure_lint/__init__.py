"""Checks Azure ML YAML for what `az ml` and azure-ai-ml accept although it cannot work with this service.

`deploy/azure/lint.py` is the command; the facts behind the rules are in docs/azure.md.
"""

from azure_lint.finding import Finding
from azure_lint.linting import Options, UnreadableFileError, lint_files

__all__ = ["Finding", "Options", "UnreadableFileError", "lint_files"]
