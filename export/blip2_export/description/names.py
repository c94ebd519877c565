"""What the documents of a bundle are called. Registries and hubs look for the first two by these names."""

MLMODEL, CARD, BOM = "MLmodel", "README.md", "bom.cdx.json"
DOCUMENTS = (MLMODEL, CARD, BOM)
