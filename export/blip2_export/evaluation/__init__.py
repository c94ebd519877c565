"""Measures a served model on VQAv2-format questions and COCO captions, through the server's `/score`.

So that a published figure can be checked with real weights and real data. Questions go over HTTP, as a client's would:
what is measured is what is deployed.
"""
