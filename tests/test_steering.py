"""The search's arithmetic: compiled where numba is there and weights are many, the same to rounding as PyTorch's."""

import math
import sys
from dataclasses import dataclass, replace

import numpy
import pytest
import torch

from tombola.core.compiling import kernel
from tombola.core.concrete import Concrete, Deterministic, StraightThrough, logit
from tombola.core.controllers import CONTROLLERS, GradBalance, Lagrangian, ProportionalBalance
from tombola.core.flat import PIECE, Layout
from tombola.core.selection import Selection
from tombola.errors import SearchError
from tombola.finders import CTS, Joint, arithmetic_of, draw, holding_of, steering
from tombola.finders.balance import far, start_logits
from tombola.finders.steering import COMPILED_FROM, PlainSteering, is_compiled
from tombola.runs.cell import Cell, resolve
from tombola.runs.config import built, load_preset
from tombola.storage.store import DiskStore

from .conftest import DyingStore, Killed, batches, mlp
from .test_rivals import problem

CPU, PROPORTIONAL = torch.device("cpu"), ProportionalBalance()
every_controller = pytest.mark.parametrize(
    "controller", list(CONTROLLERS.known.values()), ids=lambda controller: controller.name
)


@pytest.fixture
def compiled(monkeypatch):
    """Compile however few the weights are, and return the kernels."""
    pytest.importorskip("numba")
    monkeypatch.setattr(steering, "COMPILED_FROM", 1)
    from tombola.core import compiled

    return compiled


def several_pools(*sizes):
    """Layers of odd sizes with two densities, alternating, between which one is kept whole."""
    layout = Layout(("a.0", "whole", "b", "a.1"), tuple((size,) for size in sizes))
    return Selection(layout, {"a.*": 0.3, "whole": 1.0, "*": 0.05})


def one_pool(total):
    return Selection(Layout(("weight",), ((total,),)), 0.1)


def both(selection, controller=PROPORTIONAL, temperature=2 / 3, epsilon=1e-8):
    from tombola.finders.compiled_steering import CompiledSteering

    start = start_logits(selection, logit, torch.zeros(1), far(Concrete(temperature)))
    plain = PlainSteering(selection, start, Concrete(temperature), controller, 3, epsilon)
    return plain, CompiledSteering(selection, start, temperature, controller, 3, epsilon)


def above(density, step):
    return 1.2 * density


def falling(density, step):
    return density * (1 + 1 / (1 + step))


def follow(steered, steps, wanted=above, rate=0.1, scale=1.0):
    """Take steps along gradients that depend on the mask; return the last figures.

    wanted: never the density that the logits start at, where the error, which ProportionalBalance divides by nothing
    less than 0.05, would be rounding alone.
    """
    size = steered.logits.numel()
    goals = scale * torch.randn(size, generator=torch.Generator().manual_seed(1))
    for step in steps:
        gradient = goals * (1 + steered.mask(step).detach())
        share = step / 20
        figures = steered.weigh(gradient, lambda density, at=step: wanted(density, at), rate, share)
        steered.move(rate * (1 - share))
    return {key: float(value) for key, value in figures.items()}


@pytest.mark.parametrize("temperature", [0.1, 2 / 3, 5.0, 1e-40])
def test_masks_are_made_of_the_same_noise(compiled, temperature):
    selection = several_pools(PIECE - 3, 40_001, PIECE, 77)
    plain, fast = both(selection, temperature=temperature)
    for step in (0, 3):
        expected, found = plain.mask(step), fast.mask(step)
        assert found.requires_grad
        assert found.is_leaf
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.1, 0.01, 1e-40])
def test_the_compiled_noise_reaches_no_layer_that_is_decided(compiled, temperature):
    for steered in both(several_pools(7, 200_000, 20, 3), temperature=temperature):
        assert (steered.mask(0)[7:200_007] == 1).all()
        follow(steered, range(2))
        assert (steered.mask(2)[7:200_007] == 1).all()


@pytest.mark.parametrize("finder", [CTS(steps=3), Joint()], ids=lambda finder: finder.name)
def test_searches_at_low_temperatures_leave_whole_layers_whole(monkeypatch, finder):
    masks, original = [], PlainSteering.mask

    def watching(self, step):
        masks.append(original(self, step))
        return masks[-1]

    monkeypatch.setattr(PlainSteering, "mask", watching)
    density = {"2.*": 1.0, "*": 0.3}
    cold = replace(finder, relaxation=Concrete(0.01))
    draw(cold, problem(mlp(), batches()), density)
    assert all((mask[-24:] == 1).all() for mask in masks)
    assert masks
    # What was found otherwise before is not found again, and nothing else is called another name.
    selection = Selection(problem(mlp(), batches()).layout, density)
    assert holding_of(cold, selection) == {"decided": far(Concrete(0.01))}
    assert holding_of(finder, selection) == holding_of(cold, Selection(selection.layout, 0.3)) == {}


@every_controller
@pytest.mark.parametrize("selection", [one_pool(30_001), several_pools(10_001, 777, 5_000, 9_999)], ids=["one", "more"])
@pytest.mark.parametrize("temperature", [0.3, 2 / 3])
@pytest.mark.parametrize("wanted", [above, falling])
def test_the_logits_of_both_agree_to_rounding(compiled, controller, selection, temperature, wanted):
    plain, fast = both(selection, controller, temperature)
    expected, found = follow(plain, range(20), wanted), follow(fast, range(20), wanted)
    apart = (fast.logits - plain.logits).abs().sort().values
    assert apart[len(apart) // 2] < 1e-5
    # Where the two gradients cancel, what is left is rounding, of which Adam makes a step like any other.
    assert apart[int(0.999 * len(apart))] < 1e-4
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e12])
@every_controller
def test_tiny_and_huge_gradients_are_weighed_alike(compiled, scale, controller):
    plain, fast = both(one_pool(5_001), controller)
    expected, found = (follow(each, range(3), scale=scale) for each in (plain, fast))
    assert found == pytest.approx(expected, rel=1e-3)
    assert torch.isfinite(fast.logits).all()


def test_what_is_decided_stays_and_far_logits_stay_finite(compiled):
    _, fast = both(several_pools(101, 50, 200, 33))
    follow(fast, range(5))
    layers = fast.logits.split([101, 50, 200, 33])
    assert (layers[1] == 100).all()
    fast.clamp(-300.0, -200.0, [0])
    fast.clamp(300.0, 400.0, [2])
    mask = fast.mask(5).detach()
    assert mask[:101].max() < 1e-20
    assert (mask[151:351] == 1).all()
    fast.weigh(torch.ones_like(mask), lambda density: density, 0.1, 0.5)
    fast.move(0.1)
    assert torch.isfinite(fast.logits).all()


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(compiled, threads):
    selection = several_pools(3 * PIECE, 40_001, 2 * PIECE + 5, 77)

    def after_steps(count):
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            _, fast = both(selection)
            return follow(fast, range(2)), fast.logits
        finally:
            torch.set_num_threads(before)

    (figures, logits), (expected, alone) = after_steps(threads), after_steps(1)
    assert torch.equal(logits, alone)
    assert figures == expected


@every_controller
def test_a_restored_search_goes_on_to_the_same_bits(compiled, tmp_path, controller):
    finder, density = CTS(objective="loss", steps=30, controller=controller), {"0.*": 0.2, "*": 0.5}
    expected = draw(finder, problem(mlp(), batches()), density).ticket
    with pytest.raises(Killed):
        draw(finder, problem(mlp(), batches(), store=DyingStore(tmp_path, 11)), density)
    resumed = draw(finder, problem(mlp(), batches(), store=DiskStore(tmp_path)), density).ticket
    assert all(torch.equal(resumed.scores[name], scores) for name, scores in expected.scores.items())


@pytest.mark.filterwarnings("ignore::tombola.TicketWarning")
@pytest.mark.parametrize(
    "finder", [CTS(objective="loss", steps=40, controller=GradBalance()), Joint()], ids=["cts", "joint"]
)
def test_both_searches_draw_the_tickets_that_they_draw_without_numba(compiled, monkeypatch, finder):
    data = batches(8, size=64)
    found = draw(finder, problem(mlp(hidden=32), data, epochs=5), 0.3).ticket
    monkeypatch.setattr(steering, "numba_works", lambda: False)
    expected = draw(finder, problem(mlp(hidden=32), data, epochs=5), 0.3).ticket
    apart = torch.cat([(found.scores[name] - expected.scores[name]).abs().flatten() for name in found])
    assert 0 < apart.max() < 0.05
    assert apart.median() < 1e-3


def test_numbers_that_break_down_end_the_search_in_one_sentence(compiled):
    model = mlp()
    with torch.no_grad():
        model[2].weight[1, 2] = math.nan
    with pytest.raises(SearchError, match=r"the search broke down by step 0: the gradient of loss is nan in layer"):
        draw(CTS(objective="loss", steps=3), problem(model, batches()), 0.3)


@dataclass(frozen=True)
class OwnBalance(GradBalance):
    name = "own"


@dataclass(frozen=True)
class OwnConcrete(Concrete):
    name = "own"


def test_the_rule_looks_at_parts_weights_and_device(monkeypatch):
    monkeypatch.setattr(steering, "numba_works", lambda: True)
    usual = (Concrete(0.5), Lagrangian(), COMPILED_FROM, CPU, torch.float32)
    assert is_compiled(*usual)

    def otherwise(place, value):
        return is_compiled(*usual[:place], value, *usual[place + 1 :])

    assert not any(otherwise(0, each) for each in (Deterministic(), StraightThrough(), OwnConcrete()))
    assert all(otherwise(1, each) for each in CONTROLLERS.known.values())
    assert not otherwise(1, OwnBalance())
    assert not otherwise(2, COMPILED_FROM - 1)
    assert not otherwise(3, torch.device("cuda"))
    assert not otherwise(4, torch.float64)
    monkeypatch.setattr(steering, "numba_works", lambda: False)
    assert not is_compiled(*usual)


def test_without_numba_pytorch_does_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setitem(sys.modules, "numba.core", None)
    works = steering.numba_works.__wrapped__()
    assert not works
    monkeypatch.setattr(steering, "numba_works", lambda: works)
    monkeypatch.setattr(steering, "COMPILED_FROM", 1)
    selection = one_pool(9)
    start = start_logits(selection, logit, torch.zeros(1))
    made = steering.steering(selection, start, Concrete(), ProportionalBalance(), 3)
    assert isinstance(made, PlainSteering)


def test_numba_that_is_told_not_to_compile_does_not_count(monkeypatch):
    config = pytest.importorskip("numba.core").config
    assert steering.numba_works.__wrapped__()
    monkeypatch.setattr(config, "DISABLE_JIT", 1)
    assert not steering.numba_works.__wrapped__()


def test_where_arithmetic_was_compiled_the_identity_says_so(compiled, monkeypatch):
    of, finder = problem(mlp(), batches()), CTS(steps=3)
    selection = finder.selection(of, 0.3)
    told = {"arithmetic": {"name": "compiled", "version": 1}}

    def of_finder(finder, selection=selection, model=of.model):
        return arithmetic_of(finder, selection, model, CPU)

    assert of_finder(finder) == of_finder(Joint()) == told
    assert of_finder(CTS(relaxation="deterministic")) == {}
    assert of_finder(finder, finder.selection(of, 1.0)) == {}, "nothing is searched"
    assert of_finder(finder, model=mlp().double()) == {}
    assert of_finder(Joint(), model=mlp().double()) == told, "its logits are float32 there too"
    assert of_finder(built([{"finder": "snip"}]).finder) == {}
    cell = Cell.prepare(resolve(built([load_preset("digits")])))
    assert cell.identity()["arithmetic"] == told["arithmetic"]
    monkeypatch.setattr(steering, "numba_works", lambda: False)
    assert of_finder(finder) == {}
    assert "arithmetic" not in cell.identity()


def test_a_ticket_of_one_arithmetic_is_not_taken_for_one_of_the_other(compiled, monkeypatch, tmp_path):
    finder = CTS(objective="loss", steps=10)

    def drawn():
        return draw(finder, problem(mlp(), batches(), store=DiskStore(tmp_path)), 0.3)

    first = drawn()
    assert drawn().ticket.provenance.cost == first.ticket.provenance.cost, "found, not drawn again"
    monkeypatch.setattr(steering, "numba_works", lambda: False)
    assert drawn().ticket.provenance.cost != first.ticket.provenance.cost


def test_exponential_and_logarithm_are_right_to_the_last_bits(compiled):
    for x in numpy.linspace(-86, 86, 2001, dtype=numpy.float32):
        assert compiled._exp(x) == pytest.approx(math.exp(x), rel=2e-7)
    for x in numpy.exp(numpy.linspace(-80, 80, 2001)).astype(numpy.float32):
        assert compiled._log(x) == pytest.approx(math.log(x), rel=2e-7, abs=2e-7)
    assert compiled._exp(numpy.float32(-1e30)) > 0
    assert math.isfinite(compiled._exp(numpy.float32(1e30)))
    assert math.isnan(compiled._exp(numpy.float32("nan")))


def test_where_nothing_can_be_written_kernels_are_compiled_each_time(monkeypatch):
    numba, asked = pytest.importorskip("numba"), []

    def njit(cache=False, **options):
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function")
        return lambda function: function

    monkeypatch.setattr(numba, "njit", njit)
    assert kernel()(abs) is abs
    assert asked == [True, False]
