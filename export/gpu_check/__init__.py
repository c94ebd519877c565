"""Runs every step that needs an NVIDIA GPU: export, verify, tests and benches, and writes the results as JSON.

`python -m gpu_check --help`, or `make gpu-check`. It uses the standard library only, so that it starts anywhere and
reports what is missing.
"""

import os

# Every stage is a process that inherits it: ONNX Runtime reports to its maker unless this is set before it is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
