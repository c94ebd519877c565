"""The one exception that ends a command with exit code 2 and a single line on stderr."""


class ExportError(Exception):
    """Something the user can act on: the message says what, where, and what to do."""
