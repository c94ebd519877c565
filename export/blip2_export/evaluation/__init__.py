"""Measures a served model on VQAv2-format questions and COCO captions, through the server's `/score`.

Use it to check a published figure with real weights and data. Questions are sent over HTTP, so the deployed service
is what is measured.
"""
