"""Downloads checkpoints from the Hugging Face hub. Only these modules import its client, the extra `hub`."""
