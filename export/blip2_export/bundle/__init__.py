"""Writes a checkpoint as a bundle folder, and reads and changes bundles; docs/bundle.md is the format."""
