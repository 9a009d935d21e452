"""The one exception that the command line turns into a single line and exit code 2."""


class InputError(ValueError):
    """A wrong input of a user; the message is one line: what, its value, what would be right."""
