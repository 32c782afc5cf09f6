"""Gem-Miner, by hand on three weights and in a real search."""

import pytest
import torch

from tombola.core.allocation import Uniform
from tombola.core.ranking import count_kept
from tombola.core.selection import Selection
from tombola.data import Item
from tombola.finders import GemMiner, draw, holding_of
from tombola.finders.gem_miner import GemSearch

from .conftest import batches, mlp
from .test_along import POINT
from .test_rivals import problem, three


def search_of(finder, density=1 / 3, scores=(0.9, 0.6, 0.2)):
    of = three(b=1.0)
    search = GemSearch(finder, of, Selection(of.layout, density))
    with torch.no_grad():
        search.scores.copy_(torch.tensor(scores))
    return search


def test_a_step_by_hand():
    # c is rounded away, so f = 0 and e = -1: dL/dzc = 2 e c h = -4, and zero for a and b. The price adds 2 λ p = p.
    search = search_of(GemMiner(steps=40, rounds=3, penalty=0.5))
    search.advance(Item(POINT))
    assert search.scores.tolist() == pytest.approx([0.9 - 0.09, 0.6 - 0.06, 0.2 + 0.4 - 0.02])
    # Rounded, all three are in now: f = 0.5 (2 + 2) = 2 and e = 1.
    assert search._gates.mask(1).tolist() == [1.0, 1.0, 1.0]


def test_scores_stay_between_zero_and_one():
    search = search_of(GemMiner(steps=40, rounds=3, learning_rate=1.0))
    search.advance(Item(POINT))
    assert search.scores.aminmax() == (pytest.approx(0.6, abs=1e-3), 1.0)


def test_the_lowest_are_frozen_and_never_come_back():
    # One freezing, after the first of two steps: a third of the weights, one, is left, the largest.
    search = search_of(GemMiner(steps=2, rounds=1, penalty=0.5))
    search.advance(Item(POINT))
    assert search.ranking().tolist() == pytest.approx([0.81, -torch.inf, -torch.inf])
    assert search._gates.mask(1).tolist() == [1.0, 0.0, 0.0]
    search.advance(Item(POINT))
    assert search.ranking().tolist()[1:] == [-torch.inf, -torch.inf]


def test_what_is_kept_whole_or_closed_is_so_in_every_step():
    # Uniform rounds 0.4 of one weight to none; of two, one is to be chosen.
    finder = GemMiner(steps=9, rounds=3, penalty=0.5, learning_rate=1.0)
    for density, expected in (({"second*": 1.0, "*": 0.5}, 1.0), (0.4, 0.0)):
        of = three(b=1.0)
        search = GemSearch(finder, of, Selection(of.layout, density, Uniform()))
        gates = []
        for step in range(finder.steps):
            gates.append(search._gates.mask(step)[2].item())
            search.advance(Item(POINT))
        assert gates == [expected] * finder.steps
        assert search.selection.keep(search.ranking()).sum() == 1 + expected
    # Names say so where there are such layers, and are otherwise what they were.
    layout = three().layout
    assert holding_of(finder, Selection(layout, {"second*": 1.0, "*": 0.5})) == {"decided": "held"}
    assert holding_of(finder, Selection(layout, 1 / 3)) == holding_of(finder, Selection(layout, 1.0)) == {}


def test_freezings_cut_the_same_share_each_time():
    of = problem(mlp(hidden=40), batches(8))
    search = GemSearch(GemMiner(steps=8, rounds=3), of, Selection(of.layout, 0.125))
    left = []
    for item in of.feed.epoch(0):
        search.advance(item)
        left.append(int(search._rounded.alive.sum()))
    total = of.layout.total
    assert left == [
        total,
        *[count_kept(0.5, total)] * 2,
        *[count_kept(0.25, total)] * 2,
        *[count_kept(0.125, total)] * 3,
    ]


def test_the_ticket_is_what_was_never_frozen():
    of = problem(mlp(), batches())
    ticket = draw(GemMiner(steps=60), of, 0.2).ticket
    flat = torch.cat([ticket.scores[name].flatten() for name in of.layout.names])
    assert ticket.kept == count_kept(0.2, of.layout.total)
    assert int(torch.isfinite(flat).sum()) == ticket.kept
    assert of.layout.flatten(ticket)[torch.isfinite(flat)].all()
