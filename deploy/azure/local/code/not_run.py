"""Never run: azure-ai-ml's local endpoints want a scoring script, even for a container that needs none."""
