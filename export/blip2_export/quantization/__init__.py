"""Rounds weights to 4 or 8 bits in groups of 32 columns, and smooths activations, by calibration data where given."""
