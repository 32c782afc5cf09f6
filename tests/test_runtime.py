import io
from contextlib import contextmanager

import pytest
import torch
from rich.console import Console
from torch import nn

from tombola.core.progress import Bars, Lines, Silent, progress_on
from tombola.core.seeds import _repeatable_convolutions
from tombola.networks import runtime
from tombola.networks.runtime import Runtime

CPU = torch.device("cpu")


def test_the_rule_looks_at_the_model_and_the_hardware(monkeypatch):
    conv, linear = nn.Sequential(nn.Conv2d(1, 1, 1)), nn.Linear(1, 1)
    monkeypatch.setattr(runtime, "has_bf16_instructions", lambda device: True)
    assert Runtime.choose(conv, CPU) == Runtime(CPU, "bf16-mixed", "channels-last")
    assert Runtime.choose(linear, CPU) == Runtime(CPU, "32-true", "contiguous")
    monkeypatch.setattr(runtime, "has_bf16_instructions", lambda device: False)
    assert Runtime.choose(conv, CPU) == Runtime(CPU, "32-true", "channels-last")
    assert Runtime.choose(conv, CPU, "bf16-mixed", "contiguous") == Runtime(CPU, "bf16-mixed", "contiguous")


def test_bf16_runs_forward_in_bf16_and_keeps_float32_weights():
    chosen = Runtime(CPU, "bf16-mixed", "channels-last")
    model = chosen.place(nn.Conv2d(2, 3, 1))
    batch = chosen.move((torch.randn(2, 2, 4, 4), torch.zeros(2)))
    assert batch[0].is_contiguous(memory_format=torch.channels_last)
    with chosen.autocast():
        assert model(batch[0]).dtype == torch.bfloat16
    assert model.weight.dtype == torch.float32


def test_weights_of_five_dimensions_stay_as_they_are_beside_images():
    model = nn.ModuleList([nn.Conv2d(2, 3, 3), nn.Conv3d(2, 3, 3)])
    placed = Runtime(CPU, memory_format="channels-last").place(model)
    assert placed[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert placed[1].weight.is_contiguous()


def test_convolutions_on_cuda_repeat_themselves_in_float32():
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision
    with _repeatable_convolutions(torch.device("cuda")):
        assert (cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision) == (True, False, "ieee")
    assert (cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision) == before
    with _repeatable_convolutions(CPU):
        assert (cudnn.deterministic, cudnn.benchmark, cudnn.conv.fp32_precision) == before


def test_batches_of_any_structure_are_moved():
    found = Runtime(CPU, "32-true", "channels-last").move({"x": [torch.ones(1, 1, 2, 2)], "text": "a"})
    assert found["text"] == "a"
    assert found["x"][0].shape == (1, 1, 2, 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_missing_device_is_an_error():
    with pytest.raises(ValueError, match="has no CUDA device; use cpu"):
        runtime.resolve_device("cuda")
    assert runtime.resolve_device("auto") == CPU


def test_lines_for_files_have_an_eta():
    stream = io.StringIO()
    with Lines(stream, every=0).track("search", 10, done=4) as tracker:
        tracker.update(7, "loss 1")
        tracker.update(10)
    first, last = stream.getvalue().splitlines()
    assert first.startswith("search: 7/10, ")
    assert first.endswith("s left loss 1")
    assert last.startswith("search: 10/10, done in ")
    Lines(stream).say("hello")
    assert stream.getvalue().endswith("hello\n")


def test_the_end_is_said_once_however_often_it_is_asked_about():
    stream = io.StringIO()
    with Lines(stream, every=0).track("ticket", 2) as tracker:
        for done in (1, 2, 2, 2):
            tracker.update(done, "loss 1")
    assert [line.partition(",")[0] for line in stream.getvalue().splitlines()] == ["ticket: 1/2", "ticket: 2/2"]


def test_bars_for_terminals():
    stream = io.StringIO()
    bars = Bars(Console(file=stream, force_terminal=True, width=120))
    with bars.track("search", 10) as tracker:
        tracker.update(10, "loss [1]")
    bars.say("[hello]")
    assert "search" in stream.getvalue()
    assert "10/10" in stream.getvalue()
    assert "[hello]" in stream.getvalue()


def test_the_display_fits_the_stream():
    assert isinstance(progress_on(io.StringIO()), Lines)
    with Silent().track("x", 1) as tracker:
        tracker.update(1)


def test_a_card_is_asked_about_its_own_bf16(monkeypatch):
    current = [0]

    @contextmanager
    def on(device):
        current.append(device.index)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", on)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: current[-1] == 0)
    found = [runtime.has_bf16_instructions(torch.device("cuda", index)) for index in (0, 1)]
    assert found == [True, False]
    assert current == [0]
