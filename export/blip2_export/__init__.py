"""Exports a BLIP-2 checkpoint to a bundle for ONNX Runtime, and proves that it gives the same answers.

`python -m blip2_export --help` lists the commands. The bundle's format is docs/bundle.md of the repository.
"""

__version__ = "0.1.0"
