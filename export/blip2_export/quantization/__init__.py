"""Numerics of 4- and 8-bit weights in groups of 32 columns, in numpy alone; the graphs are written elsewhere."""
