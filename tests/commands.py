"""`tombola` for scripts in bash, each command in a process that begins with PyTorch loaded.

A server, `python -m tests.commands SOCKET`, is asked by socket; whoever asks hands over words, folder, environment and
files, as a shell does, and gets the exit status. Loading PyTorch takes longer than most of the commands in the docs.
"""

import gc
import json
import multiprocessing
import os
import shlex
import socket
import subprocess
import sys
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from threading import Thread

ROOT = Path(__file__).parent.parent
# What most commands import in the end, beside what tombola's own modules do.
HEAVY = ("tombola.runs.pipeline", "torch._dynamo", "sklearn.datasets", "scipy.stats", "numba", "pandas", "jsonargparse")
CLIENT = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect(sys.argv[1])
    socket.send_fds(server, [json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]).encode()], [0, 1, 2])
    sys.exit(server.recv(1)[0])
"""


@contextmanager
def commands(folder):
    """Start a server whose socket lies in a folder; gives the function `tombola` as bash defines it."""
    path = Path(folder) / "socket"
    words = [sys.executable, "-m", "tests.commands", path]
    server = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout.readline() == "ready\n"
        client = [sys.executable, "-ISc", CLIENT, str(path)]
        yield f'tombola() {{ {shlex.join(client)} "$@"; }}\n'
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def serve(path):
    from tombola import process

    process.tune()
    for name in HEAVY:
        import_module(name)
    gc.freeze()  # so that no child copies it all to look it over
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(path)
        server.listen()
        print("ready", flush=True)
        while True:
            asked, _ = server.accept()
            words, files, _, _ = socket.recv_fds(asked, 2**20, 3)
            answer(asked, *json.loads(words), files)


def answer(asked, arguments, folder, environment, files):
    """Run one command in a process of its own, and send its exit status when it has ended."""
    process = multiprocessing.get_context("fork").Process(target=run, args=(arguments, folder, environment, files))
    process.start()
    for file in files:
        os.close(file)

    def wait():
        with asked:
            process.join()
            asked.send(bytes([process.exitcode % 256]))

    Thread(target=wait, daemon=True).start()


def run(arguments, folder, environment, files):
    from tombola.cli.main import main

    for number, file in enumerate(files):
        os.dup2(file, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["tombola", *arguments]
    sys.exit(main())


if __name__ == "__main__":
    serve(sys.argv[1])
