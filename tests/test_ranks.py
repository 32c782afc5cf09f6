"""Several processes that divide each batch: the same as one, to rounding, and refused where they would not be."""

import itertools

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import tombola
from tests.conftest import CPU, TinyConv, batches, images, mlp
from tests.ranks import on_ranks
from tombola.core.ranks import ALONE, Together, ranks_of
from tombola.data import Item, ListFeed, RowRange
from tombola.errors import SearchError, TombolaError, UsageError
from tombola.finders import FINDERS
from tombola.networks.division import over_ranks
from tombola.networks.masking import survey
from tombola.networks.shares import rows_of, share_of
from tombola.storage.leading import LedStore
from tombola.storage.leases import Lease
from tombola.storage.store import DiskStore
from tombola.training.buffers import SharedBuffers

pytestmark = pytest.mark.filterwarnings("ignore::tombola.TicketWarning")  # of so short searches
# The last batch has fewer samples than two for each of two processes; a third of an epoch is odd.
DATA = [
    *batches(2, 16),
    *(tuple(part[:15] for part in batch) for batch in batches(1, 16, seed=3)),
    *batches(1, 3, seed=4),
]
DRAWN = (
    "cts:steps=6:objective=loss",
    "cts:steps=6:objective=reverse-kl",
    "cts:steps=6:objective=delta-loss",
    "cts:steps=6:objective=grad-norm",
    "cts:steps=6:objective=grad-match",
    "cts:steps=6:objective=feature-mse",
    "edge-popup:steps=6",
    "gem-miner:steps=8:rounds=3",
    "snip:batches=3",
    "force:rounds=3:batches=4",
    "grasp:batches=4",
    "prospr",
    "saliency:objective=reverse-kl:batches=4",
    "fisher:batches=4",
    "fisher-taylor:batches=4:rounds=2",
    "hutchinson:batches=4:probes=2:temperature=1",
    "hutchinson-taylor:batches=4:probes=2:temperature=1",
    "synflow:rounds=3",
    "magnitude",
)
TRAINED = ("cts:steps=4", "joint", "ltr", "gradual", "continuous-sparsification", "ac-dc", "rigl", "set", "granet")
SUMMED = tombola.Recipe(epochs=3, learning_rate=0.02, summed=True, clip_norm=1.0)


def drawn(finder, fabric=None):
    ticket = tombola.draw(mlp(), DATA, density=0.3, finder=finder, fabric=fabric, progress=False)
    return dict(ticket), dict(ticket.scores), ticket.provenance.cost.passes


def trained(finder, fabric=None, recipe=None):
    recipe = recipe or tombola.Recipe(epochs=3, learning_rate=0.1)
    data = {"model": mlp(), "train": DATA, "held_out": DATA[:2]}
    found = tombola.sparsify(**data, density=0.4, finder=finder, recipe=recipe, fabric=fabric, progress=False)
    return dict(found.ticket), dict(found.model.state_dict()), found.ticket.provenance.cost.passes


def all_of_them(fabric):
    return {
        **{finder: drawn(finder, fabric) for finder in DRAWN},
        **{("trained", finder): trained(finder, fabric) for finder in TRAINED},
        "summed": trained("random", fabric, SUMMED),
    }


@pytest.fixture(scope="module")
def of_two():
    return on_ranks(2, all_of_them)


@pytest.mark.parametrize("finder", DRAWN)
def test_two_processes_draw_what_one_draws(of_two, finder):
    same_as_one(drawn(finder), [each[finder] for each in of_two])


@pytest.mark.parametrize("finder", TRAINED)
def test_two_processes_train_what_one_trains(of_two, finder):
    same_as_one(trained(finder), [each["trained", finder] for each in of_two])


def test_every_finder_divides():
    finders = [(name, type(FINDERS.named(name))) for name in FINDERS]
    assert [name for name, kind in finders if not vars(kind).get("divides")] == []


def test_summed_and_clipped_gradients_are_those_of_the_whole_batch(of_two):
    same_as_one(trained("random", recipe=SUMMED), [each["summed"] for each in of_two])


def same_as_one(one, others):
    """Hold masks, values and counted passes of one process against those of each of several."""
    for masks, values, passes in others:
        kept = sum(int(mask.sum()) for mask in one[0].values())
        assert sum(int((one[0][name] & masks[name]).sum()) for name in masks) >= 0.99 * kept
        assert passes == one[2]
        for name, value in one[1].items():
            torch.testing.assert_close(values[name], value, rtol=1e-3, atol=1e-5)
            assert torch.equal(values[name], others[0][1][name])  # the same bits on all of them


def collectives(fabric):
    """Return what the processes, of the numbers 0 and 1, make of known numbers."""
    ranks, one = ranks_of(fabric), fabric.global_rank == 1
    found = {"rank": (ranks.rank, ranks.size, ranks.leads)}
    # Means 4 and 8, of one quarter and three: (4 + 3 * 8) / 4 = 7, and its square 49.
    leaf = torch.tensor(8.0 if one else 4.0, requires_grad=True)
    mean = ranks.mean(leaf, 0.75 if one else 0.25)
    found["mean"] = float(mean)
    found["slope"] = float(torch.autograd.grad(ranks.piece(mean.square()), leaf)[0])  # 2 * 7 * share
    apart = ranks.mean(leaf, 0.5) * (3.0 if one else 1.0)  # of 4 times 6: both ranks' use of the mean counts
    found["apart"] = float(torch.autograd.grad(apart, leaf)[0])
    leaves = [torch.zeros(2, requires_grad=True) for _ in range(3)]
    leaves[0].grad = torch.tensor([1.0, 2.0])
    if one:
        leaves[1].grad = torch.tensor([5.0, 7.0])
    statistic = torch.tensor([6.0 if one else 2.0])
    found["value"] = float(ranks.combine(leaves, [statistic], torch.tensor(1.5)))
    found["grads"] = [None if each.grad is None else each.grad.tolist() for each in leaves]
    found["statistic"] = statistic.tolist()
    counts = torch.tensor([2**40 + 1, 3 if one else 2])
    ranks.combine([], [counts], torch.tensor(0.0))
    found["counts"] = counts.tolist()
    found["given"] = ranks.given(lambda: f"from {ranks.rank}")
    found["gathered"] = ranks.gathered(ranks.rank * 10)
    with ranks.apart(0, "test"):
        found["random"] = float(torch.rand(()))
    for error in (UsageError("no", option="seed"), _Unpicklable()):
        with pytest.raises(TombolaError) as caught:
            ranks.given(lambda error=error: _raise(error))
        found.setdefault("errors", []).append((str(caught.value), vars(caught.value).get("heard", False)))
    return found


class _Unpicklable(SearchError):
    def __init__(self):
        super().__init__("lost")
        self.held = lambda: None


def _raise(error):
    raise error


def test_means_gradients_and_what_the_leading_process_gives():
    zero, one = on_ranks(2, collectives)
    assert (zero["rank"], one["rank"]) == ((0, 2, True), (1, 2, False))
    assert zero["mean"] == one["mean"] == 7.0
    assert (zero["slope"], one["slope"]) == (3.5, 10.5)
    assert (zero["apart"], one["apart"]) == (2.0, 2.0)
    assert zero["value"] == one["value"] == 3.0
    assert zero["grads"] == one["grads"] == [[2.0, 4.0], [5.0, 7.0], None]
    assert zero["statistic"] == one["statistic"] == [4.0]
    assert zero["counts"] == one["counts"] == [2**40 + 1, 2]
    assert zero["given"] == one["given"] == "from 0"
    assert zero["gathered"] == one["gathered"] == [0, 10]
    assert zero["random"] != one["random"]
    assert zero["errors"] == [("seed: no", False), ("lost", False)]
    assert one["errors"] == [("seed: no", True), ("_Unpicklable: lost", True)]


def stored(fabric, root):
    """Write and read an entry, which another process of one's own locks at first."""
    ranks = ranks_of(fabric)
    store = LedStore(DiskStore(root, checkpoint_seconds=0.0), ranks)
    held = Lease(root / ".leases" / "busy")
    if ranks.leads:
        held.acquire()
        torch.multiprocessing.get_context()
        import threading

        threading.Timer(0.7, held.release).start()
    fabric.barrier()
    with store.lock("busy"):
        entry = store.entry("draw", {"seed": 0})
        with entry.locked():
            before = entry.get("ticket"), entry.resume(), entry.due()
            entry.record({"step": ranks.rank})
            entry.checkpoint({"rank": ranks.rank})
            entry.put("ticket", {"mask": torch.tensor([ranks.rank])})
            found = entry.get("ticket"), entry.resume(), entry.rows()
    return before, found


def test_a_store_is_the_leading_process_s(tmp_path):
    for rank, (before, (ticket, state, rows)) in enumerate(on_ranks(2, stored, tmp_path)):
        assert before == (None, None, rank == 0)  # a checkpoint is due to one alone
        assert ticket["mask"].tolist() == [0]
        assert (state, rows) == ({"rank": 0}, [{"step": 0}])


def refusals(fabric):
    """Return what is said of everything that cannot be divided."""
    rank, said = fabric.global_rank, {}
    balanced = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 25.0]))
    half = DataLoader(TensorDataset(*(torch.cat(parts) for parts in zip(*DATA, strict=True))), 8)
    half = DataLoader(half.dataset, 8, sampler=DistributedSampler(half.dataset, 2, rank))
    odd = [({"x": x, "table": torch.zeros(5, 2), "labels": y}) for x, y in DATA]
    by_name = tombola.Task(forward=lambda model, batch: model(batch["x"]), loss=_named_loss)

    def attempt(name, **changes):
        given = {"model": mlp(), "data": DATA, "density": 0.5, "finder": "snip", "fabric": fabric, "progress": False}
        with pytest.raises(UsageError) as caught:
            tombola.draw(**{**given, **changes})
        said[name] = str(caught.value)

    attempt("balanced", task=tombola.Task(loss=lambda output, batch: balanced(output, batch[1])))
    attempt(
        "summed",
        task=tombola.Task(loss=lambda output, batch: nn.functional.cross_entropy(output, batch[1]) * 2 * len(batch[1])),
    )
    attempt("finder", finder=_Own())
    attempt("objective", finder=tombola.finders.CTS(steps=2, objective=_spread))
    attempt("model", model=mlp(seed=rank))
    attempt("data", data=half)
    attempt("batch", data=odd, task=by_name)
    with pytest.raises(UsageError) as caught:
        tombola.sparsify(
            mlp(), DATA, DATA, density=0.5, fit=lambda model, job: None, fabric=fabric, progress=False, finder="random"
        )
    said["fit"] = str(caught.value)
    return said


def _named_loss(output, batch):
    return nn.functional.cross_entropy(output, batch["labels"])


def _spread(masked):
    return masked.sparse.std()


class _Own(tombola.finders.SNIP):
    """A finder of one's own, which says nothing of dividing."""


def test_what_would_be_wrong_is_refused_in_one_sentence():
    zero, one = on_ranks(2, refusals)
    assert zero == one
    assert "Task(loss=...) cannot be divided over processes" in zero["balanced"]
    assert "Task(loss=...) cannot be divided over processes" in zero["summed"]
    assert "does not say that it can divide batches over 2 processes" in zero["finder"]
    assert "cannot be divided over processes" in zero["objective"]
    assert "_spread" in zero["objective"]
    assert zero["model"].startswith("fabric needs the same model in all 2 processes")
    assert zero["data"].startswith("fabric needs the same data in all 2 processes")
    assert "one holds a tensor of shape (5, 2)" in zero["batch"]
    assert zero["fit"].startswith("fit: trains in its own way")


def named(fabric):
    """Return names of results that do and do not depend on how batches are divided."""
    found = []
    for model, data in ((mlp(), DATA), (TinyConv(), images(2, 12))):
        seen = []

        def look(masked, seen=seen):
            seen.append(masked.network.runtime.to_dict())
            return masked.task.loss(masked.sparse, masked.batch)

        finder = tombola.finders.CTS(steps=1, objective=look)
        tombola.draw(model, data, density=0.5, finder=finder, fabric=fabric, progress=False)
        found.append(seen[-1].get("processes"))
    return found


def test_processes_belong_to_the_name_where_networks_normalise_by_the_batch():
    assert on_ranks(2, named) == [[None, 2], [None, 2]]


class Two:
    """Ranks as they are seen from one of two, for what asks nobody."""

    size = 2

    def __init__(self, rank):
        self.rank = rank


def shares(item, task=None):
    task = task or tombola.Task()
    runtimes = [CPU.__class__(torch.device("cpu"), ranks=Two(rank)) for rank in (0, 1)]
    return [share_of(item, task, runtime) for runtime in runtimes]


def test_a_batch_is_divided_by_samples_and_weighted_by_what_counts():
    x, y = torch.arange(10.0).view(5, 2), torch.tensor([0, 1, 255, 255, 1])
    counted = tombola.Task(counted=lambda batch: int((batch[1] != 255).sum()))
    zero, one = shares(Item((x, y), torch.tensor([7, 8, 9, 10, 11])), counted)
    assert zero.batch[0].tolist() == x[:2].tolist()
    assert one.batch[1].tolist() == [255, 255, 1]
    assert zero.item.key.tolist() == [7, 8]
    assert one.item.key.tolist() == [9, 10, 11]
    assert (zero.portion.of_samples, one.portion.of_samples) == (0.4, 0.6)
    assert (zero.portion.of_counted, one.portion.of_counted) == (2 / 3, 1 / 3)
    assert zero.counted == one.counted == 3
    assert zero.samples == 5
    assert one.times == 5 / 3


def test_too_little_to_divide_is_run_whole_by_all():
    three = (torch.zeros(3, 2), torch.zeros(3, dtype=torch.long))
    uncounted = (torch.zeros(4, 2), torch.tensor([255, 255, 0, 0]))
    task = tombola.Task(counted=lambda batch: int((batch[1] != 255).sum()))
    for share in (*shares(Item(three)), *shares(Item(uncounted), task)):
        assert len(share.batch[0]) == share.samples
        assert share.portion.of_samples == share.portion.of_counted == 0.5


def test_stored_outputs_of_a_divided_batch_in_a_list_are_its_rows():
    feed = ListFeed([(torch.arange(4.0), torch.arange(4))])
    table = feed.remember(lambda batch: 10 * batch[0])
    (item,) = feed.epoch(0)
    half = rows_of(item, RowRange(1, 3, 4), tombola.Task())
    assert table(half).tolist() == [10.0, 20.0]
    with pytest.raises(UsageError, match="have no row for each of 4 samples"):
        RowRange(0, 2, 4).of_output(torch.zeros(3, 4))


def test_nested_batches_are_divided_where_each_part_is_of_samples():
    batch = {"x": torch.zeros(4, 3), "sizes": [1, 2, 3, 4], "scale": torch.tensor(2.0), "labels": torch.zeros(4)}
    found = rows_of(Item(batch), RowRange(1, 3, 4), tombola.Task()).batch
    assert found["sizes"] == [2, 3]
    assert found["x"].shape == (2, 3)
    assert float(found["scale"]) == 2.0
    with pytest.raises(UsageError, match="cannot be divided over processes"):
        rows_of(Item((torch.zeros(7, 4), torch.zeros(4))), RowRange(0, 2, 4), tombola.Task())


def test_a_list_of_as_many_inputs_as_samples_is_divided_by_samples():
    inputs = [torch.arange(4.0)[:, None] + 10 * number for number in range(4)]
    found = rows_of(Item([inputs, torch.arange(4)]), RowRange(0, 2, 4), tombola.Task()).batch
    assert [each.flatten().tolist() for each in found[0]] == [[10 * n, 10 * n + 1] for n in range(4)]
    one_a_sample = [torch.zeros(rows, 2) for rows in (4, 4, 4, 3)]
    found = rows_of(Item([one_a_sample, torch.arange(4)]), RowRange(2, 4, 4), tombola.Task()).batch
    assert [each.shape[0] for each in found[0]] == [4, 3]
    boxes = [torch.full((4, 2), float(number)) for number in range(4)]
    found = rows_of(Item([torch.zeros(4, 3), boxes]), RowRange(2, 4, 4), tombola.Task()).batch
    assert [float(each.mean()) for each in found[1]] == [2, 3], (
        "targets are one for each sample, however many rows they have"
    )


class Following(nn.Module):
    """Takes off a running mean and counts calls and samples, in buffers of its own: in place, and of another tensor."""

    def __init__(self, keeps=True):
        super().__init__()
        self.keeps = keeps
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("shift", torch.full((6,), 0.1))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("latest", torch.zeros(6))

    def forward(self, x):
        if self.training:
            self.calls += 1
        if self.training and self.keeps:
            self.mean.data.mul_(0.9).add_(x.detach().mean(dim=0), alpha=0.1)
            self.latest = x.detach()[0].clone()
        return x - self.mean + self.shift


def buffered(fabric=None):
    torch.manual_seed(0)
    model = nn.Sequential(Following(), nn.Linear(6, 3))
    recipe = tombola.Recipe(epochs=2, learning_rate=0.1)
    data = batches(3, 16)
    given = {"density": 0.5, "finder": "random", "recipe": recipe, "fabric": fabric, "progress": False}
    return dict(tombola.sparsify(model, data, data, **given).model.state_dict())


def test_buffers_that_training_changes_are_the_same_on_all_ranks():
    one, (zero, other) = buffered(), on_ranks(2, buffered)
    assert all(torch.equal(value, other[name]) for name, value in zero.items())
    for name in ("mean", "shift", "calls"):
        torch.testing.assert_close(zero[f"0.{name}"], one[f"0.{name}"])
    assert int(zero["0.calls"]) == 6


class Told:
    """Two ranks, of which the other tells what it was told to."""

    size = 2

    def __init__(self, *other):
        self.other = other

    def gathered(self, mine):
        return [mine, self.other]


def test_buffers_of_which_there_is_a_mean_are_told_by_all_ranks_and_stay_those():
    module = Following()
    shared = SharedBuffers(module, Told(["shift"], ["latest"]))
    with shared.noticed():
        module(torch.randn(4, 6))
    assert list(shared.state()) == ["calls", "mean", "shift"], "what has another shape on some rank has no mean"
    later = SharedBuffers(module, Told())
    later.restore(shared.state())
    with later.noticed():
        module.latest = torch.ones(6)
    assert [id(each) for each in later.tensors()] == [id(module.calls), id(module.mean), id(module.shift)]
    module.mean = torch.zeros(7)
    with pytest.raises(UsageError, match="model changes the shape of its buffer mean between steps"):
        later.tensors()


def test_processes_belong_to_the_name_where_buffers_keep_something_of_the_batch():
    def by_share(model):
        runtime = CPU.__class__(torch.device("cpu"), ranks=Two(0))
        return over_ranks(model, survey(model).layout, tombola.Task(), ListFeed(DATA), runtime, ()).by_share

    assert by_share(nn.Sequential(Following(), nn.Linear(6, 3)))
    assert not by_share(nn.Sequential(Following(keeps=False), nn.Linear(6, 3)))


class FullyShardedDataParallel(nn.Sequential):
    """Called as FSDP is."""


def test_sharded_models_are_refused_with_how_to_gather_them():
    with pytest.raises(UsageError, match=r"sharded over processes .*get_model_state_dict"):
        tombola.preview(FullyShardedDataParallel(nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (object(), "must be a lightning_fabric.Fabric, got object"),
        ({"strategy": "FSDPStrategy"}, "must have the strategy ddp"),
        ({"strategy": "DDPStrategy"}, "is not launched"),
    ],
)
def test_what_is_no_launched_fabric_is_refused(given, words):
    if isinstance(given, dict):
        strategy = type(given["strategy"], (), {})()
        parts = {"world_size": 2, "global_rank": 0, "strategy": strategy, "all_reduce": None, "broadcast": None}
        given = type("Fabric", (), parts)()
    with pytest.raises(UsageError, match=words):
        tombola.draw(mlp(), DATA, density=0.5, fabric=given)


def test_one_process_is_alone():
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    assert ranks_of(None) is ranks_of(fabric) is ALONE
    value = torch.tensor(2.0)
    assert ALONE.mean(value, 0.5) is ALONE.piece(value) is value
    assert list(itertools.chain(ALONE.gathered(3), [ALONE.given(lambda: 4)])) == [3, 4]


def test_another_process_that_is_gone_is_one_sentence():
    class Gone:
        global_rank, world_size, device = 1, 2, torch.device("cpu")

        def all_reduce(self, tensor, reduce_op):
            raise RuntimeError("Connection closed by peer\nand more")

    with pytest.raises(
        TombolaError, match=r"another of the 2 processes has ended.*number 1.*Connection closed by peer"
    ):
        Together(Gone()).total([torch.zeros(2)])
