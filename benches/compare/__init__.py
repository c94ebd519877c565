"""Measures transformers and `blip2 serve` side by side, on one machine, in one run, over the same checkpoint.

`python -m compare --help`, from `benches/`, says what is measured; `make bench-compare` prepares and runs it.

    cases         what is asked: pictures, questions, lengths, and whether rows come alone or together
    contenders    who is asked, and how a process of each is started, timed and stopped
    rounds        the order of it all, and what is saved when
    rates, work   what this machine can do, and what the model asks for: their quotient is the floor
    page, charts  the results as Markdown and SVG

Only one contender is in memory at a time, and each round starts all of them anew in another order: a machine whose
speed drifts slows all of them alike. Nothing here imports torch but the two files that run as processes of their own.

Charts are seventy lines of our own and not matplotlib, as in `blip2_export`: bars need no dependency of 60 MB, and
the same numbers give the same bytes.
"""

import os

# ONNX Runtime reports to its maker unless this is set before it is loaded. Child processes inherit it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
