"""The exception that ends a command with exit code 2 and a single line on stderr."""


class ExportError(Exception):
    """An error that the user can act on: the message says what is wrong, where, and what to do."""
