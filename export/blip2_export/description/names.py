"""File names of a bundle's documents. Registries and hubs look for the first two by these names."""

MLMODEL, CARD, BOM = "MLmodel", "README.md", "bom.cdx.json"
DOCUMENTS = (MLMODEL, CARD, BOM)
