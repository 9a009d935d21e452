"""Exceptions that the command line turns into a single line."""


class InputError(ValueError):
    """A wrong input of a user; the message is one line: what, its value, what would be right."""


class RankError(RuntimeError):
    """A job of several ranks cannot go on; the message is one line, the same on all that say it.

    Attributes:
        speaks: whether this rank is the one that tells the user.
    """

    def __init__(self, message: str, *, speaks: bool) -> None:
        super().__init__(message)
        self.speaks = speaks
