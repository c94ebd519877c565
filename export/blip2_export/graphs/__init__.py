"""The three graphs of a bundle, one module each, written from a checkpoint tensor by tensor."""
