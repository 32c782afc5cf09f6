"""`tombola COMMAND ...`: finds the command, imports it alone, and turns errors into one sentence."""

import os
import sys

from tombola import alive

if os.path.basename(sys.argv[0]) == "tombola":  # the installed command, for which Ctrl-C is quiet from here on
    alive.guard()

import errno
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TextIO

from tombola.errors import TicketWarning, TombolaError, UsageError, did_you_mean, in_words, lacks_memory
from tombola.literal import literal
from tombola.process import follows, place
from tombola.version import __version__

COMMANDS = {
    "run": "pretrain, draw a ticket, train it and evaluate it",
    "compare": "compare finders at several densities, over seeds",
    "table": "show a comparison again, or hand its figures on",
    "report": "write a comparison's page, or its figures",
    "study": "run a study's cells from a file, on this machine or a cluster",
    "status": "show how a study stands",
    "audit": "check that a ticket says something about its weights",
    "preview": "list what would be pruned of a model",
    "draw": "pretrain and draw a ticket",
    "train": "train a ticket and evaluate it",
    "evaluate": "measure a ticket's weights on data",
    "info": "show what is in a ticket, a run, an audit or a comparison",
    "export": "write a ticket's network to one file: plain, sparse, compacted, ONNX",
    "deploy": "measure a ticket's network beside the dense one: bytes, latency",
    "list": "list the runs below a directory",
    "clean": "delete what can be made again",
    "demo": "draw a 98 % sparse ticket from a digits classifier, beside a random one",
}
# Those that do something which takes time, and show how far they are.
_WORKING = ("run", "compare", "study", "report", "audit", "draw", "train", "evaluate", "deploy", "demo")
# What fails in all processes alike is said by one: the others wait so long for whoever started them to end them.
FOLLOWER_SECONDS = 60.0
# Those that several processes can do together.
_DIVIDED = ("run", "draw", "train")
# What no disk can have: names that were given, not a failure.
_BAD_NAMES = (errno.ENAMETOOLONG, errno.ELOOP)

TOO_LARGE = "the memory does not suffice; less takes a smaller --batch-size, --search-batch-size, --image-size or model"


def _help() -> str:
    commands = "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
    return (
        "usage: tombola [--help] [--version] COMMAND ...\n\n"
        "Draws winning lottery tickets: sparse subnetworks that train, alone, almost like the dense network.\n\n"
        f"commands:\n{commands}\n\n"
        "`tombola COMMAND --help` lists a command's options. To begin with:\n"
        "  tombola run --preset digits --sparsity 98%\n"
    )


def _worded(error: TombolaError) -> str:
    """Return an error's sentence on one line, its option as it is written here."""
    if isinstance(error, UsageError) and error.option:
        return " ".join(error.worded(f"--{error.option.replace('_', '-')}").split())
    return " ".join(str(error).split())


@contextmanager
def _warned_in_words(command: str) -> Iterator[None]:
    """Show a ticket's warnings like errors, on one line each; those of other packages as they are."""
    show = warnings.showwarning

    def shown(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, TicketWarning):
            if not follows():
                _complain(command, f"warning: {message}")
        else:
            alive.end()
            show(message, category, filename, lineno, file, line)

    warnings.showwarning = shown
    try:
        yield
    finally:
        warnings.showwarning = show


def _complain(command: str, text: str) -> None:
    """Write one line to standard error."""
    alive.end()
    number = place()
    which = f"process {number.rank}: " if number and number.rank else ""
    print(f"tombola {command}: {which}{literal(text)}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, 1 for a failure, 2 for bad input, 130 if interrupted
    and 143 if killed by SIGTERM.

    A command may have a status of its own, such as an audit's.
    """
    alive.guard()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _main(arguments)
    except KeyboardInterrupt as stop:
        if "TOMBOLA_PARENT" not in os.environ and not follows():
            _complain(" ".join(arguments[:1]), "interrupted; the same command goes on from the last checkpoint")
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)
    finally:
        alive.end()
        alive.unguard()


def _main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(_help(), end="")
        return 0
    if arguments[0] == "--version":
        print(f"tombola {__version__}")
        return 0
    command = arguments[0]
    if command not in COMMANDS:
        allowed = ", ".join(COMMANDS)
        hint = did_you_mean(command, COMMANDS)
        print(f"tombola: there is no command {command!r}; allowed are {allowed}{hint}", file=sys.stderr)
        return 2
    try:
        with _warned_in_words(command):
            return _run(command, arguments[1:]) or 0
    except TombolaError as error:
        if not vars(error).get("heard"):  # by the process that leads this one, which says it
            if follows():
                time.sleep(FOLLOWER_SECONDS)
            _complain(command, _worded(error))
        return 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:
        # Whoever read the output wants no more of it; nothing is left to be flushed into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        _complain(command, f"{error.filename or 'a file'}: {error.strerror or error}")
        return 2 if error.errno in _BAD_NAMES else 1
    except RuntimeError as error:
        if not lacks_memory(error):
            raise
        _complain(command, f"{TOO_LARGE} ({in_words(error)})")
        return 1


def _run(command: str, arguments: Sequence[str]) -> int | None:
    """Import a command and run it; return its exit status, if it has one of its own."""
    from tombola import process

    # A configuration that is to be printed is all that such a command shows.
    if not {"--print-config", "--print_config"} & {*arguments} and place() is None:
        alive.begin(f"tombola {command}", command in _WORKING)
    process.tune()
    sys.path.append(os.getcwd())  # where one's own models are looked for, behind everything installed
    number = place()
    if number is not None and command not in _DIVIDED:
        raise UsageError(
            f"{command} works in one process, and {number.devices * number.nodes} were started; those that divide "
            f"their work are {', '.join(_DIVIDED)}"
        )
    status: int | None = import_module(f"tombola.cli.{command}").main(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main())
