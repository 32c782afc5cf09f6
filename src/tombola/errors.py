"""What can go wrong, in one place."""


def in_words(error: BaseException) -> str:
    """Return an error's kind and text on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def lacks_memory(error: BaseException) -> bool:
    """Whether PyTorch asked for more memory than there is; on CPUs its text alone says so."""
    texts = ("allocate memory", "Storage size calculation overflowed")
    return type(error).__name__ == "OutOfMemoryError" or any(text in str(error) for text in texts)


class TombolaError(Exception):
    """Base class of every error that tombola raises on purpose."""


class UsageError(TombolaError, ValueError):
    """Something the user gave cannot be used; the message is one sentence that says what is allowed."""


class SearchError(TombolaError, ArithmeticError):
    """The numbers of a search or a training broke down (NaN or infinity)."""


class TicketWarning(UserWarning):
    """A ticket was drawn, but something about it deserves a look."""
