"""What can go wrong, in one place."""


class TombolaError(Exception):
    """Base class of every error that tombola raises on purpose."""


class UsageError(TombolaError, ValueError):
    """Something the user gave cannot be used; the message is one sentence that says what is allowed."""


class SearchError(TombolaError, ArithmeticError):
    """The numbers of a search or a training broke down (NaN or infinity)."""


class TicketWarning(UserWarning):
    """A ticket was drawn, but something about it deserves a look."""
