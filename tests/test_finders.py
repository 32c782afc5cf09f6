"""What every finder promises, whatever it does: ours, and one of one's own."""

from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from torch import nn

from tombola import UsageError
from tombola.core.cost import Cost, Meter
from tombola.core.parts import COUNT, Part, option
from tombola.core.ranking import count_kept
from tombola.core.seeds import generator
from tombola.core.selection import Selection
from tombola.finders import FINDERS, SNIP, Drawn, Finder, Gradual, draw, drawn, needs_of
from tombola.finders.gradual import Pruning
from tombola.networks.masking import by_canonical_name
from tombola.networks.task import Task
from tombola.storage.store import DiskEntry, DiskStore
from tombola.ticket import Ticket

from .conftest import Killed, TinyConv, as_json, batches, dying, images
from .test_rivals import problem

pytestmark = pytest.mark.filterwarnings("ignore::tombola.TicketWarning")


@dataclass(frozen=True)
class OwnFinder(Finder):
    """A finder written against nothing but the documented interface: noise, a little at a look."""

    name: ClassVar[str] = "own"
    steps: int = option(4, "looks at the first batch", must=COUNT)

    def draw(self, problem, density):
        """Return the ticket of one density."""
        selection, model, item = self.selection(problem, density), problem.network().eval(), next(problem.feed.epoch(0))
        start = {"step": 0, "scores": torch.zeros(problem.layout.total), "cost": Cost().to_dict()}
        kept = problem.entry.resume() or start
        meter = Meter(Cost(**kept["cost"]))
        for step in range(kept["step"], self.steps):
            noise = torch.rand(problem.layout.total, generator=generator(problem.seed, "own", step))
            spread = float(model(item.batch[0]).detach().std())
            meter.count(forward=len(item.batch[1]))
            kept = {"step": step + 1, "scores": kept["scores"] + spread * noise, "cost": meter.read().to_dict()}
            problem.entry.record({"stage": "own", "step": step})
            if problem.entry.due():
                problem.entry.checkpoint(kept)
        return drawn(self, problem, density, selection.keep(kept["scores"]), kept["scores"], meter.read())


SHORT = {
    "cts": {"steps": 12}, "edge-popup": {"steps": 12}, "synflow": {"rounds": 3}, "force": {"rounds": 3},
    "gradual": {"rounds": 5}, "ltr": {"rate": 0.5}, "imp": {"rate": 0.5}, "lrr": {"rate": 0.5},
    "gem-miner": {"steps": 12, "rounds": 3}, "hutchinson": {"probes": 2}, "hutchinson-taylor": {"probes": 2},
    **{key: {"warm_up_batches": 2} for key in ("fisher", "fisher-taylor")}, "rigl": {"updates": 4},
    "set": {"updates": 4}, "granet": {"updates": 6},
}  # fmt: skip
EVERY = [*(replace(FINDERS.known[name], **SHORT.get(name, {})) for name in FINDERS), OwnFinder()]
every_finder = pytest.mark.parametrize("finder", EVERY, ids=lambda finder: finder.name)
# Whatever takes a look or a few makes no checkpoints, and begins again.
SEARCHING = [
    finder for finder in EVERY
    if finder.name in {
        "cts", "edge-popup", "gem-miner", "joint", "gradual", "continuous-sparsification", "ltr", "imp", "lrr",
        "ac-dc", "rigl", "set", "granet", "own",
    }
]  # fmt: skip
# What these rank depends on the weights and on the data, which lie in a list here.
SEEDLESS = {"magnitude", "snip", "grasp", "grasp-magnitude", "synflow", "force", "prospr", "fisher", "fisher-taylor"}


def of(seed=3, model=None, **values):
    torch.manual_seed(0)
    made = problem(model or TinyConv(), images(3), epochs=4, **values)
    made.trainer.setup = replace(made.trainer.setup, seed=seed)
    made.trainer.identity["seed"] = seed
    return replace(made, seed=seed)


@every_finder
@pytest.mark.parametrize("density", [0.05, 0.31, 1.0])
def test_exactly_k_of_the_weights_that_there_are(finder, density):
    at = of()
    ticket = draw(finder, at, density).ticket
    assert ticket.kept == count_kept(density, at.layout.total)
    assert ticket.shapes == dict(zip(at.layout.names, at.layout.shapes, strict=True))
    assert {name: scores.shape for name, scores in ticket.scores.items()} == ticket.shapes
    ticket.check(at.model)


@every_finder
def test_the_same_seed_gives_the_same_ticket_and_leaves_everything_as_it_was(finder):
    at = of()
    before = {name: value.clone() for name, value in at.model.state_dict().items()}
    state = torch.get_rng_state()
    first = draw(finder, at, 0.31)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    again = draw(finder, of(), 0.31)
    assert first.ticket == again.ticket
    assert all(torch.equal(first.ticket.scores[name], again.ticket.scores[name]) for name in first.ticket)
    assert first.rows == again.rows
    assert all(torch.equal(value, before[name]) for name, value in at.model.state_dict().items())


@every_finder
def test_another_seed_gives_another_ticket_where_anything_is_random(finder):
    one, other = draw(finder, of(), 0.31).ticket, draw(finder, of(seed=4), 0.31).ticket
    same = all(torch.equal(one.scores[name], other.scores[name]) for name in one)
    assert same == (finder.name in SEEDLESS)


@every_finder
def test_the_provenance_says_what_made_the_ticket_and_what_it_cost(finder):
    at = of()
    provenance = draw(finder, at, 0.31).ticket.provenance
    settled = finder.settled(at) if hasattr(finder, "settled") else finder
    if finder.name != "own":
        assert FINDERS.read(provenance.finder) == settled
    assert provenance.finder["name"].endswith(("OwnFinder", finder.name))
    assert (provenance.seed, provenance.at, provenance.density) == (3, "init", 0.31)
    # What lrr keeps of training is the weights, so its ticket belongs to those that it ends with.
    assert (provenance.weights == at.weights.digest) == (finder.name != "lrr")
    looks = finder.name not in {"random", "magnitude"}
    assert (provenance.cost.forward > 0) == looks
    assert provenance.cost.seconds > 0
    assert provenance == draw(finder, at, 0.31).ticket.provenance, "what was drawn is not drawn again"


@every_finder
def test_the_cost_counts_every_sample_that_the_network_sees(finder, monkeypatch):
    seen, forward = 0, TinyConv.forward

    def watched(model, inputs):
        nonlocal seen
        seen += len(inputs)
        return forward(model, inputs)

    at = of()
    monkeypatch.setattr(TinyConv, "forward", watched)
    found = draw(finder, at, 0.31).ticket.provenance
    # The objective before and after, which the provenance reports, belongs to no search; nor does the choice of one.
    reports = bool(found.objective)
    assert (seen > found.cost.forward) if reports else (seen == found.cost.forward)


@every_finder
def test_a_cost_is_that_of_the_weights_and_of_the_draw(finder):
    if "rewind" not in needs_of(finder).at:
        return
    from_start, later = draw(finder, of(), 0.31).ticket, draw(finder, of(at="rewind", rewind=2), 0.31).ticket
    so_far = of(rewind=2).cost_so_far
    assert so_far.forward == 2 * 36
    assert later.provenance.epoch == 2
    assert later.provenance.cost.backward >= (0 if needs_of(finder).trains else so_far.backward)
    assert from_start.provenance.cost.forward > 0 or finder.name in {"random", "magnitude"}


def assert_alike(found, expected):
    assert found.ticket == expected.ticket
    assert all(torch.equal(found.ticket.scores[name], scores) for name, scores in expected.ticket.scores.items())
    assert found.rows == expected.rows
    assert (found.start and found.start.digest) == (expected.start and expected.start.digest)
    cost, due = found.ticket.provenance.cost, expected.ticket.provenance.cost
    assert (cost.forward, cost.backward) == (due.forward, due.backward)


@pytest.mark.parametrize("finder", SEARCHING, ids=lambda finder: finder.name)
@pytest.mark.parametrize("after", [1, 5, *(pytest.param(steps, marks=pytest.mark.hard) for steps in (2, 9))])
def test_a_draw_halted_at_any_step_goes_on_to_the_same_bits(tmp_path, finder, after):
    straight = draw(finder, of(store=DiskStore(tmp_path / "straight", checkpoint_seconds=0)), 0.31)
    with suppress(Killed), dying(after):  # or it never comes that far
        draw(finder, of(store=DiskStore(tmp_path / "halted", checkpoint_seconds=0)), 0.31)
    resumed = draw(finder, of(store=DiskStore(tmp_path / "halted", checkpoint_seconds=0)), 0.31)
    assert_alike(resumed, straight)


@every_finder
def test_a_draw_interrupted_before_its_ticket_is_kept_goes_on_to_the_same_bits(tmp_path, monkeypatch, finder):
    made, checkpoint, put = [], DiskEntry.checkpoint, DiskEntry.put

    def interrupted(entry, name, value):
        if name == "ticket":
            raise KeyboardInterrupt
        put(entry, name, value)

    with monkeypatch.context() as patch:
        patch.setattr(DiskEntry, "checkpoint", lambda *given: made.append(checkpoint(*given)))
        patch.setattr(DiskEntry, "put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            draw(finder, of(store=DiskStore(tmp_path, checkpoint_seconds=0)), 0.31)
    assert bool(made) == (finder in SEARCHING), "whatever makes checkpoints is halted at them above"
    assert_alike(draw(finder, of(store=DiskStore(tmp_path)), 0.31), draw(finder, of(), 0.31))


@every_finder
def test_what_was_drawn_is_remembered_by_all_that_it_depends_on(finder, tmp_path, monkeypatch):
    store, uses_erk = DiskStore(tmp_path), finder.allocation.name == "erk"
    first = draw(finder, of(store=store), 0.31)
    monkeypatch.setattr(type(finder), "draw", None)
    again = draw(finder, of(store=store), 0.31)
    assert again.ticket == first.ticket
    assert again.rows == first.rows
    with pytest.raises((TypeError, UsageError), match="not callable"):
        draw(finder, of(store=store), 0.32)
    with pytest.raises((TypeError, UsageError), match="not callable"):
        draw(replace(finder, allocation="uniform" if uses_erk else "erk"), of(store=store), 0.31)


@every_finder
def test_a_density_that_keeps_nothing_is_refused_before_any_work(finder, monkeypatch):
    monkeypatch.setattr(type(finder), "draw", None)
    with pytest.raises(UsageError, match="keeps none of the 228 prunable weights"):
        draw(finder, of(), 1e-4)


@every_finder
def test_weights_at_which_it_cannot_be_drawn_are_refused(finder):
    for at, rewind in (("init", 0), ("rewind", 1), ("trained", 4)):
        if at in needs_of(finder).at:
            continue
        with pytest.raises(UsageError, match=f"draw_at must be .* for the finder {finder.name}, got {at}"):
            draw(finder, of(at=at, rewind=rewind), 0.31)


@dataclass(frozen=True)
class Bare(Part):
    """What is least: no base of ours but that of parts, whose draw returns what it is told."""

    name: ClassVar[str] = "bare"
    what: str = "ticket"

    def draw(self, problem, density):
        kept = Selection(problem.layout, density).keep(torch.arange(float(problem.layout.total)))
        masks = problem.layout.views(kept)
        first, *_, last = masks
        return {
            "ticket": lambda: Drawn(Ticket(masks), []),
            "masks": lambda: masks,
            "few": lambda: Drawn(Ticket({**masks, last: torch.zeros_like(masks[last])}), []),
            "lacks": lambda: Drawn(Ticket({first: masks[first]}), []),
            "flat": lambda: Drawn(Ticket({name: mask.flatten() for name, mask in masks.items()}), []),
        }[self.what]()


def test_a_finder_may_do_without_our_base_and_is_checked():
    ticket = draw(Bare(), of(), 0.5).ticket
    assert ticket.kept == 114
    assert (ticket.provenance.finder["what"], ticket.provenance.density, ticket.provenance.at) == (
        "ticket",
        0.5,
        "init",
    )
    for what, message in (
        ("masks", "must return tombola.finders.Drawn, got dict"),
        ("few", r"returned a ticket of \d+ weights; the density asks for 160 of the prunable ones \(all\)"),
        ("lacks", "returned a ticket of other weights than the prunable ones"),
        ("flat", "returned a ticket of other weights than the prunable ones"),
    ):
        with pytest.raises(UsageError, match=f"^finder: .*Bare {message}"):
            draw(Bare(what), of(), 0.7)


def test_a_finder_of_ones_own_goes_the_whole_way_from_the_command_line(tmp_path, bring, capsys):
    code = "from dataclasses import dataclass\nfrom typing import ClassVar\n"
    code += "from tombola.finders.ranked import Ranked\n@dataclass(frozen=True)\nclass Least(Ranked):\n"
    code += "    power: int = 1\n    def scores(self, problem):\n"
    code += "        sizes = problem.layout.flatten(problem.values_of(problem.weights)).abs()\n"
    code += "        return -(sizes ** self.power)\n"
    bring("least_tombola", code)
    quick = ["--epochs", "2", "--rewind-to", "1", "--milestones", "[]", "--threads", "1", "--out", str(tmp_path / "o")]
    found = as_json(capsys, "run", *quick, "--finder", "least_tombola:Least:power=2:allocation=uniform")
    provenance = Ticket.load(found["ticket"]).provenance
    assert provenance.finder["name"] == found["finder"] == "least_tombola:Least"
    assert FINDERS.read(provenance.finder).power == 2
    rows = as_json(capsys, "compare", *quick, "--finders", "least_tombola:Least,random", "--seeds", "1")["rows"]
    assert [row["finder"] for row in rows] == ["least_tombola:Least", "random"]


# Layers of which largest remainders give one more weights of a smaller total, by rounds and by the cubic schedule.
AWKWARD = [
    ("global", (6, 8, 3), 0.2, 25),
    ("uniform", (3, 3, 5, 5, 2), 0.1, 25),
    ("uniform", (2, 2, 8, 5), 0.3, 60),
    ("erk", (2, 2, 8, 5), 0.3, 60),
    ("erk", (8, 8, 5, 5), 0.1, 10),
]


def narrow(sizes):
    torch.manual_seed(0)
    layers = [nn.Linear(inputs, outputs) for inputs, outputs in pairwise(sizes)]
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh())))


@pytest.mark.parametrize(("allocation", "sizes", "density", "rounds"), AWKWARD)
def test_what_rounds_and_cuts_have_pruned_never_comes_back(allocation, sizes, density, rounds):
    masks = []

    class Watching(SNIP):
        def scores(self, context, mask):
            masks.append(mask.bool())
            return super().scores(context, mask)

    at = problem(narrow(sizes), batches(inputs=sizes[0], classes=min(sizes[0], sizes[-1])))
    finder = Watching(rounds=rounds, allocation=allocation)
    ticket = draw(finder, at, density).ticket
    masks.append(torch.cat([ticket[name].flatten() for name in at.layout.names]))
    assert all(not (late & ~early).any() for early, late in pairwise(masks))
    assert ticket.kept == count_kept(density, at.layout.total)
    cuts, model = [], narrow(sizes)
    pruning = Pruning(Gradual(rounds=rounds, share=1.0), finder.selection(at, density))
    pruning.begin(model, Task())
    for step in range(1, rounds + 1):
        pruning.after_step(step / rounds)
        cuts.append(pruning.mask)
        with torch.no_grad():  # what momentum would do
            for weight in by_canonical_name(model).values():
                weight.add_(torch.rand(weight.shape, generator=torch.Generator().manual_seed(step)))
    assert all(not (late & ~early).any() for early, late in pairwise(cuts))
    assert int(cuts[-1].sum()) == ticket.kept
