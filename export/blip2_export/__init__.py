"""Exports a BLIP-2 checkpoint to a bundle for ONNX Runtime, and proves that it gives the same answers.

`python -m blip2_export --help` lists the commands. The bundle's format is docs/bundle.md of the repository.
"""

import os

__version__ = "0.1.0"

# No telemetry. ONNX Runtime reports to its vendor as soon as it is loaded, and reads the variable only then; this file
# runs before any module of the package can import it. An earlier value is replaced, because only `1` and `true` are
# understood. The hub's client then sends nothing but requests for files.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
