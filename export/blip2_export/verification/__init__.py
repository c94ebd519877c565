"""Compares a bundle with transformers, and writes the certificate, its page and the golden answers."""
