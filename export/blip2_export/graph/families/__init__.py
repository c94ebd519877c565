"""The graphs of BLIP-2, one module each: the formulas of the network and the names of its weights."""
