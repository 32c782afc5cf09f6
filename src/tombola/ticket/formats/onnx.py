"""onnx: the network, without its dead units where it can be compacted, for other runtimes."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tombola.errors import UsageError
from tombola.sparse.compaction import compact
from tombola.storage.files import write_bytes
from tombola.ticket.file import check_place
from tombola.ticket.formats.base import Subject
from tombola.ticket.formats.checks import check_outputs
from tombola.ticket.formats.compacted import parameters
from tombola.ticket.formats.exporting import quiet, reason

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Onnx:
    """An ONNX model with an input `input` and an output `output`, for batches of any size.

    Of a network with several outputs the first is called so.
    """

    name: ClassVar[str] = "onnx"
    endings: ClassVar[tuple[str, ...]] = (".onnx",)
    default: ClassVar[str] = "network.onnx"
    needs_model: ClassVar[bool] = True

    def write(self, path: Path, subject: Subject) -> str:
        """Compact the network if possible, export it, and compare onnxruntime's outputs with PyTorch's."""
        check_installed()
        check_place(path)
        model, example = subject.network()
        whole = parameters(model)
        try:
            model = compact(model, subject.ticket, example)
            words = f"an ONNX network, compacted to {parameters(model):,} of {whole:,} parameters"
        except UsageError as error:
            words = f"an ONNX network, not compacted ({error})"
        content = onnx_bytes(model, example)
        check_outputs(path, subject, Session(content, torch.get_num_threads()))
        write_bytes(path, content)
        return f"{words}; onnxruntime gives PyTorch's outputs"


def check_installed() -> None:
    """Raise UsageError where the extra is not installed."""
    missing = [package for package in _PACKAGES if find_spec(package) is None]
    if missing:
        raise UsageError(f"ONNX needs {', '.join(missing)}: install tombola[onnx]")


def onnx_bytes(model: nn.Module, example: Tensor) -> bytes:
    """Return a network, in eval mode, as an ONNX file's content; raises UsageError where PyTorch cannot export it."""
    check_installed()
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "network.onnx"
        try:
            torch.onnx.export(
                model.eval(),
                (example,),
                path,
                dynamo=True,
                external_data=False,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                input_names=["input"],
                output_names=["output"],
                verbose=False,
            )
        except Exception as error:  # the model is the user's: anything may come out of it
            raise UsageError(f"PyTorch cannot export the model to ONNX ({reason(error)})") from error
        return path.read_bytes()


@contextmanager
def _explained() -> Iterator[None]:
    """Say what onnxruntime cannot do."""
    try:
        yield
    except Exception as error:  # of kinds of its own, and the model is the user's
        raise UsageError(f"onnxruntime cannot run the model ({reason(error)})") from error


class Session:
    """Runs an ONNX file's content in onnxruntime, on the CPU and a number of threads."""

    def __init__(self, content: bytes, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        # Waiting threads would take the processor from whatever runs next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        with _explained():
            self._session: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def __call__(self, batch: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the output for a batch, (N, ...); several as a tuple."""
        with _explained():
            first, *others = map(torch.from_numpy, self._session.run(None, {"input": batch.contiguous().numpy()}))
        return (first, *others) if others else first
