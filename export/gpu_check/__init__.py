"""Everything that wants an NVIDIA GPU, in one run: export, verify, tests and benches, with a JSON of what came out.

`python -m gpu_check --help`, or `make gpu-check`. Standard library only, so that it starts anywhere and says itself
what is missing.
"""
