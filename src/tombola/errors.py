"""What can go wrong, in one place."""

import unicodedata
from collections.abc import Collection, Iterable, Sequence

# A message that begins like this says something of its option, and follows its name after a space.
_PREDICATES = ("must ", "needs ", "takes ", "is ", "are ", "cannot ", "excludes ", "has ", "'", '"')
# Control characters, halves of characters (bytes of a file's name that are no UTF-8), ends of lines and paragraphs.
_UNSHOWN = {"Cc", "Cs", "Zl", "Zp"}

# What is said of options that divide one cell, where there are many.
OF_ONE_CELL = (
    "is for run, draw and train, which divide one cell over processes; cells are done side by side by --jobs, each on "
    "a GPU of its own, or by an engine of tombola study"
)


def in_words(error: BaseException) -> str:
    """Return an error's kind and text on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def shown(name: object) -> str:
    """Return a name or path as one line of text, with escapes for what is none."""
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in _UNSHOWN else character
        for character in str(name)
    )


def the_first(names: Sequence[str]) -> str:
    """Return the first three of some names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name that a mistyped one stands for, or nothing: two letters exchanged, else the most alike."""
    from difflib import get_close_matches  # not for every command

    names = list(known)
    exchanged = {f"{name[:at]}{name[at : at + 2][::-1]}{name[at + 2 :]}" for at in range(len(name) - 1)}
    near = [each for each in names if each in exchanged] or get_close_matches(name, names, n=1)
    return near[0] if near else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" of what a name is near to, or nothing where it is near to none."""
    near = nearest(name, known)
    return f"; did you mean {near}?" if near else ""


def check_one_of(allowed: Collection[str], value: str, option: str) -> None:
    """Raise UsageError unless an option's value is one of some names."""
    if value not in allowed:
        words = f"must be one of {', '.join(allowed)}, got {value}{did_you_mean(value, allowed)}"
        raise UsageError(words, option=option)


def lacks_memory(error: BaseException) -> bool:
    """Whether PyTorch asked for more memory than there is; on CPUs its text alone says so."""
    texts = ("allocate memory", "Storage size calculation overflowed")
    return type(error).__name__ == "OutOfMemoryError" or any(text in str(error) for text in texts)


class TombolaError(Exception):
    """Base class of every error that tombola raises on purpose."""


class UsageError(TombolaError, ValueError):
    """Something the user gave cannot be used; one sentence that says what is allowed.

    message: the sentence. option: the argument at fault, by its name in Python, if it is one; the text then begins with
    it, and the command line writes it as it is written there.
    """

    def __init__(self, message: str = "", *, option: str = "") -> None:
        super().__init__(message)
        self.message, self.option = message, option

    def __str__(self) -> str:
        return self.worded(self.option)

    def worded(self, name: str) -> str:
        """Return the sentence with its option, if it has one, written as `name`."""
        if not self.option:
            return self.message
        if self.message.startswith((f"{self.option} ", f"{self.option}:")):
            return name + self.message[len(self.option) :]
        return f"{name}{'' if self.message.startswith(_PREDICATES) else ':'} {self.message}"


class SearchError(TombolaError, ArithmeticError):
    """The numbers of a search or a training broke down (NaN or infinity)."""


class TicketWarning(UserWarning):
    """A ticket was drawn, but something about it deserves a look."""
