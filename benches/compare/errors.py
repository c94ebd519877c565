"""What a comparison cannot go on with."""


class CompareError(Exception):
    """A message for the user: what is wrong, and what to do about it."""
