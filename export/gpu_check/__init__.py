"""Everything that wants an NVIDIA GPU, in one run: export, verify, tests and benches, with a JSON of what came out.

`python -m gpu_check --help`, or `make gpu-check`. Standard library only, so that it starts anywhere and says itself
what is missing.
"""

import os

# Every stage is a process that inherits it: ONNX Runtime reports to its maker unless this is set before it is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
