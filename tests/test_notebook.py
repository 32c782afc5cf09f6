"""Progress in a notebook: bars that are changed in place, in the output of a cell of a real kernel."""

import re

import pytest

CELL = """
import torch, tombola
torch.manual_seed(0)
data = [(torch.randn(16, 6), torch.randint(3, (16,))) for _ in range(4)]
model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
ticket = tombola.draw(model, data, density=0.5, steps=300, seed=0, progress=True)
"""
LEFT = """
import io, sys
from tombola.core.progress import Bars, Lines, Notebook, progress_on
assert isinstance(progress_on(), Notebook) and isinstance(progress_on(io.StringIO()), Lines)
bars = Notebook(every=0.0)
bars.say("words")
with bars.track("<b>odd</b>", 400, 100) as bar:
    for done in range(101, 401):
        bar.update(done, "loss 1 < 2")
"""


@pytest.mark.hard
def test_a_kernel_gets_one_bar_a_piece_of_work_and_no_line_a_step():
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in (CELL, LEFT)])
    nbclient.NotebookClient(notebook, timeout=400).execute()
    drawn, left = (cell.outputs for cell in notebook.cells)
    # A real search of 300 steps: one display, which shows its end, and at most a few lines of words.
    shown = [output.data for output in drawn if output.output_type == "display_data"]
    assert len(shown) == 1
    assert re.match(r"search: 300/300, done in [0-9.]+ s", shown[0]["text/plain"])
    assert '<progress value="300" max="300"' in shown[0]["text/html"]
    assert sum(output.text.count("\n") for output in drawn if output.output_type == "stream") <= 3
    # What is written for others is shown as it is written.
    words, bar = left
    assert words.name == "stdout"
    assert words.text == "words\n"
    assert re.fullmatch(r"<b>odd</b>: 400/400, done in [0-9.]+ s loss 1 < 2", bar.data["text/plain"])
    assert "&lt;b&gt;odd&lt;/b&gt;" in bar.data["text/html"]
    assert "loss 1 &lt; 2" in bar.data["text/html"]
