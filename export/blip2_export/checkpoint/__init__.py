"""Reads a checkpoint of transformers, from a folder or the hub: configuration, tensors, preprocessing and tokenizer."""
