"""Writes checkpoints of random weights, in the layout and dimensions of real ones."""
