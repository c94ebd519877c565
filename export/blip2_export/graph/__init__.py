"""Writes the three ONNX graphs, node by node, in the precision of a target."""
