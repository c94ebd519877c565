"""Runs graphs with ONNX Runtime on the requested provider, never silently on another."""
