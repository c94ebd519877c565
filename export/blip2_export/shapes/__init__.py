"""The tiny BLIP-2 that this repository carries: drawn scenes of coloured shapes, and a model trained on them.

`scenes` draws, `questions` asks, `tokenizer` and `model` build what is trained, `train` trains it, `evaluate` puts a
running server to the test on scenes that training has never seen.
"""
