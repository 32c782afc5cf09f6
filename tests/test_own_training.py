"""Training functions of the user's own, in Python and on the command line."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import tombola
from tombola import Job, Random, Recipe, Ticket, UsageError

from .conftest import OWN, as_json, batches, mlp, train_epoch


def test_a_training_function_by_name(capsys, brought, tmp_path):
    own = as_json(capsys, "run", *OWN, "--fit", "brought:train", "--out", tmp_path / "o")
    ours = as_json(capsys, "run", *OWN, "--out", tmp_path / "o")
    assert own["run_dir"] != ours["run_dir"]
    assert own["test_accuracy"] > 60
    weights = load_file(f"{own['run_dir']}/weights.safetensors")
    assert all((weights[name][~mask] == 0).all() for name, mask in Ticket.load(own["ticket"]).items())
    assert as_json(capsys, "run", *OWN, "--fit", "brought:train", "--out", tmp_path / "o")["repeated"]
    assert own["seconds_by_stage"]["pretraining"] > 0


def careful(model, job):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    job.hold(model, optimizer)
    for epoch in job.epochs:
        train_epoch(model, optimizer, job.batches(epoch))


def sparsify(function, **options):
    data = batches(8, size=64)
    return tombola.sparsify(
        mlp(hidden=32), data, batches(2, size=64, seed=1), density=0.4, fit=function,
        **{"recipe": Recipe(epochs=6), "finder": Random(), "progress": False, **options},
    )  # fmt: skip


def test_a_training_function_in_python():
    jobs: list[Job] = []

    def watched(model, job):
        jobs.append(job)
        careful(model, job)

    found = sparsify(watched, rewind_to=2)
    assert [(list(job.epochs), job.ticket is None) for job in jobs] == [([0, 1], True), ([2, 3, 4, 5], False)]
    assert found.held_out_metric > 0.6
    assert all((found.model.get_parameter(name)[~mask] == 0).all() for name, mask in found.ticket.items())
    again = sparsify(careful, rewind_to=2)
    assert again.ticket == found.ticket
    assert all(torch.equal(v, again.model.state_dict()[k]) for k, v in found.model.state_dict().items())
    assert found.ticket.provenance.cost.backward == 2 * 8 * 64


def test_a_jobs_batches_depend_on_seed_and_epoch_alone():
    x, y = (torch.cat(parts) for parts in zip(*batches(4), strict=True))
    seen: list[list[list[float]]] = []

    def watching(model, job):
        seen.append([[float(inputs[0, 0]) for inputs, _ in job.batches(epoch)] for epoch in job.epochs])

    def run(seed):
        seen.clear()
        dataset = torch.utils.data.TensorDataset(x, y)
        with pytest.raises(UsageError, match=r"call job\.hold"):  # nothing holds the ticket
            tombola.sparsify(
                mlp(), dataset, dataset, density=0.5, fit=watching, recipe=Recipe(epochs=3), finder=Random(),
                batch_size=16, seed=seed, progress=False,
            )  # fmt: skip
        return [list(epochs) for epochs in seen]

    (first,), later = run(0)
    assert len({tuple(epoch) for epoch in (first, *later)}) == 3, "every epoch has an order of its own"
    assert run(0) == [[first], later]
    assert run(1)[0] != [first]


def test_a_training_function_that_forgets_to_hold_is_told_so_after_its_first_epoch():
    begun = []

    def forgetful(model, job):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if job.ticket is None:
            job.hold(model, optimizer)
        for epoch in job.epochs:
            begun.append((job.ticket is not None, epoch))
            train_epoch(model, optimizer, job.batches(epoch))

    with pytest.raises(UsageError, match=r"left \d+ pruned weights of 0\.weight that are not zero; call job\.hold"):
        sparsify(forgetful)
    assert [epoch for of_ticket, epoch in begun if of_ticket] == [1, 2]


def test_training_functions_that_break_the_rules():
    def careless(model, job):
        copy.copy(job)
        with torch.no_grad():
            model[0].weight.fill_(1.0)

    with pytest.raises(UsageError, match=r"left \d+ pruned weights of 0\.weight that are not zero; call job\.hold"):
        sparsify(careless)

    def renaming(model, job):
        model.add_module("extra", nn.Linear(2, 2))

    with pytest.raises(UsageError, match="changed the names"):
        sparsify(renaming)
    with pytest.raises(UsageError, match=r"fit must be a function of \(model, job\), got 'train'"):
        sparsify("train")
