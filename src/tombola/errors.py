"""What can go wrong, in one place."""

# Words with which a message goes on from the name of its option; others follow a colon.
_GOES_ON = ("must ", "needs ", "takes ", "is ", "are ", "cannot ", "excludes ", "has ", "'", '"')


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
    """Something the user gave cannot be used; one sentence that says what is allowed.

    message: the sentence. option: the argument that it is about, by its name in Python, if it is about one; the text
    then begins with it, and the command line writes it as it is written there.
    """

    def __init__(self, message: str, *, option: str = "") -> None:
        super().__init__(message)
        self.message, self.option = message, option

    def __str__(self) -> str:
        return self.worded(self.option)

    def worded(self, name: str) -> str:
        """Return the sentence with the option written as `name`."""
        if not name:
            return self.message
        return f"{name}{'' if self.message.startswith(_GOES_ON) else ':'} {self.message}"


class SearchError(TombolaError, ArithmeticError):
    """The numbers of a search or a training broke down (NaN or infinity)."""


class TicketWarning(UserWarning):
    """A ticket was drawn, but something about it deserves a look."""
