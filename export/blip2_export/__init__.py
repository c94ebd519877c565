"""Exports a BLIP-2 checkpoint to a bundle for ONNX Runtime, and proves that it gives the same answers.

`python -m blip2_export --help` lists the commands. The bundle's format is docs/bundle.md of the repository.
"""

import os

__version__ = "0.1.0"

# No word to outside. ONNX Runtime reports to its maker from the moment it is loaded, and reads the variable then and
# never again; this file runs before any module of the package can import it. What was set before is replaced: of all
# values only `1` and `true` are understood. The hub's client is asked for files, and for nothing else.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
