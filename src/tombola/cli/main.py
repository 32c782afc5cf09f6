"""`tombola COMMAND ...`: finds the command, imports it alone, and turns errors into one sentence."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from tombola import process
from tombola.errors import TombolaError, UsageError, in_words, lacks_memory
from tombola.version import __version__

COMMANDS = {
    "run": "pretrain, draw a ticket, train it and evaluate it",
    "compare": "compare finders at several densities, over seeds",
    "audit": "check that a ticket says something about its weights",
    "preview": "list what would be pruned of a model",
    "draw": "pretrain and draw a ticket",
    "train": "train a ticket and evaluate it",
    "evaluate": "measure a ticket's weights on data",
    "info": "show what is in a ticket or a run",
    "export": "write plain weights with zeros where a ticket prunes",
    "list": "list the runs below a directory",
    "clean": "delete what can be made again",
    "demo": "draw a 98 % sparse ticket from a digits classifier, beside a random one",
}


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, 1 for a failure, 2 for bad input, 130 if interrupted.

    A command may have a status of its own, such as an audit's.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(_help(), end="")
        return 0
    if arguments[0] == "--version":
        print(f"tombola {__version__}")
        return 0
    command = arguments[0]
    process.tune()
    if command not in COMMANDS:
        print(f"tombola: there is no command {command!r}; allowed are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    sys.path.append(os.getcwd())  # where one's own models are looked for, behind everything installed
    try:
        status: int | None = import_module(f"tombola.cli.{command}").main(arguments[1:])
    except TombolaError as error:
        print(f"tombola {command}: {_worded(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:
        # Whoever read the output wants no more of it; nothing is left to be flushed into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"tombola {command}: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if not lacks_memory(error):
            raise
        print(f"tombola {command}: {TOO_LARGE} ({in_words(error)})", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"tombola {command}: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130
    return status or 0


if __name__ == "__main__":
    sys.exit(main())
