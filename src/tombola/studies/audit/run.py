"""Runs the checks of an audit: alters the ticket, trains what comes out as the ticket is trained, and compares."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from glob import escape
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from tombola.core.flat import Layout
from tombola.core.granularity import GRANULARITIES, Granularity
from tombola.core.groups import Groups
from tombola.core.measure import Measure
from tombola.core.progress import Progress
from tombola.core.seeds import derive, generator, seeded
from tombola.core.selection import Density
from tombola.errors import UsageError
from tombola.finders import Magnitude, Random, draw, following
from tombola.finders.origins import with_signs
from tombola.finders.problem import Problem
from tombola.networks.models import read_weights
from tombola.networks.network import estimate_statistics, lacks_statistics, load_weights, statistics_modules
from tombola.networks.runtime import on_threads
from tombola.runs.cell import Cell, resolve
from tombola.runs.config import RunConfig
from tombola.runs.rundir import claim_below, epoch_of, name_of_finder, store_below, ticket_name, write_audit
from tombola.sparse.channels import SILENCE_VERSION
from tombola.sparse.choice import first_inputs
from tombola.storage.store import DiskStore
from tombola.studies.audit.alterations import Impossible, changed, inverted, inverted_by_layer, shared, shuffled
from tombola.studies.audit.connectivity import Connectivity, walk
from tombola.studies.audit.rebasin import Chain, matched
from tombola.studies.audit.report import Check, Report, Transfer
from tombola.ticket import Ticket
from tombola.training import State

C = TypeVar("C", bound=Check)
# Batches on which running statistics are estimated between two networks, which have none of their own there.
STATISTICS_BATCHES = 50

Alteration = Callable[[Ticket, torch.Generator, Groups], Ticket]
MASK_CHECKS: dict[str, Alteration] = {
    "shuffled within layers": shuffled,
    "scores inverted within layers": inverted_by_layer,
    "scores inverted over the network": inverted,
}
REINITIALISED = "re-initialised"
SIGNS, REBASED = "signs alone on new weights", "permuted to new weights"
# Batches on which units of two networks are matched.
MATCHING_BATCHES = 10


def audit(
    config: RunConfig,
    ticket_file: Path,
    scores: Path | None,
    weights: Path | None,
    seeds: int,
    out: Path,
    progress: Progress,
) -> tuple[Report, Path]:
    """Audit a ticket; return what was found, and the directory below `out` where audit.json lies.

    config: model, data and recipe; its seed is the first of `seeds`. scores: safetensors file of what the ticket's
    weights were ranked by. weights: as in `pipeline.train`. What was trained before is not trained again.
    """
    if seeds < 1:
        raise UsageError(f"must be at least 1, got {seeds}", option="seeds")
    config = resolve(config)
    with on_threads(config.threads):
        cell = Cell.prepare(replace(config, weights=str(weights)) if weights else config)
        ticket = Ticket.load(ticket_file, cell.model)
        if ticket.kept == 0:
            raise UsageError(f"{ticket_file} keeps no weight: there is nothing to audit")
        start = cell.start_of(ticket, weights is not None, epoch_of(weights))
        if scores:
            ticket = Ticket(dict(ticket), ticket.provenance, _read_scores(scores, ticket))
        identity = {**cell.identity(), "ticket": ticket.digest, "epoch": start.epoch, "audit": seeds}
        if ticket.silent:
            identity["silent"] = SILENCE_VERSION
        directory = claim_below(out, f"audit-{ticket_name(ticket, config.seed)}", identity)
        store = store_below(out, progress)
        with store.lock(directory.name):
            report = _Bench(cell, ticket, start, store, progress, range(seeds)).report()
            facts = {"finder": name_of_finder(ticket), "density": ticket.density, "seed": config.seed}
            write_audit(directory, facts | report.to_dict())
    return report, directory


def _read_scores(path: Path, ticket: Ticket) -> dict[str, torch.Tensor]:
    scores = read_weights(path, "scores")
    if {name: tuple(score.shape) for name, score in scores.items()} != ticket.shapes:
        raise UsageError(f"{path} does not hold a score for each weight of the ticket")
    return {name: scores[name] for name in ticket}


@dataclass(frozen=True)
class _Altered:
    """What an alteration made: the share that it changed, and what is to be trained from where."""

    share: float
    ticket: Ticket
    start: State


@dataclass(frozen=True)
class _Bench:
    """A ticket under audit, and the means to train it and what is made of it."""

    cell: Cell
    ticket: Ticket
    start: State
    store: DiskStore
    progress: Progress
    numbers: range

    def report(self) -> Report:
        """Run every check."""
        trained = [self._train(number, self.ticket, self.start) for number in self.numbers]
        own = [self._score(state) for state in trained]
        checks = [
            self._check(name, own, partial(self._other_mask, name, alter), Check) for name, alter in MASK_CHECKS.items()
        ]
        return Report(
            seeds=tuple(self.cell.config.seed + number for number in self.numbers),
            scores=tuple(own),
            measure=self._measure,
            checks=(*checks, self._check(REINITIALISED, own, self._other_weights, Check)),
            empty_layers=tuple(name for name, kept in self.ticket.kept_by_layer.items() if not kept),
            overlap=self._overlap(),
            other_weights=self._at_other_weights(),
            connectivity=self._connectivity(trained),
            transfers=(
                self._check(SIGNS, own, self._signs, Transfer),
                self._check(REBASED, own, self._rebased, Transfer),
            ),
        )

    def _at_other_weights(self) -> bool:
        """Whether the weights that the ticket is trained from are known not to be those that it was drawn at."""
        provenance = self.ticket.provenance
        return provenance is not None and provenance.weights not in {None, self.start.digest}

    def _check(self, name: str, own: list[float], alter: Callable[[int], "_Altered"], kind: type[C]) -> C:
        """Alter anew for every seed, train, and judge; an alteration that cannot be made ends the check."""
        found: list[float] = []
        shares: list[float] = []
        for number in self.numbers:
            try:
                altered = alter(number)
            except Impossible as error:
                return kind(name, why=str(error))
            shares.append(altered.share)
            self.progress.say(
                f"{name}, {number + 1} of {len(self.numbers)}: {altered.share:.1%} of the weights are others"
            )
            found.append(self._score(self._train(number, altered.ticket, altered.start)))
        return kind.judged(name, min(shares), found, own, self._measure)

    def _other_mask(self, name: str, alter: Alteration, number: int) -> "_Altered":
        """Return another mask, to be trained from the ticket's own weights."""
        altered = alter(self.ticket, self._generator(number, name), self._groups())
        return _Altered(changed(self.ticket, altered), altered, self.start)

    def _other_weights(self, number: int) -> "_Altered":
        """Return the ticket's mask with initial weights drawn anew."""
        provenance = self.ticket.provenance
        if provenance is None or provenance.at != "init":
            at = f"it was drawn at: {provenance.at}" if provenance else "it does not say where it was drawn"
            raise Impossible(f"only tickets of initial weights can be given new ones; {at}")
        fresh = State.of(self._fresh(number, REINITIALISED))
        return _Altered(self._share_of_others(fresh), self.ticket, fresh)

    def _fresh(self, number: int, purpose: str) -> nn.Module:
        """Return the model with initial weights drawn anew."""
        return self.cell.initial_model(self.cell.config.seed + number, purpose)

    def _share_of_others(self, made: State) -> float:
        """Return the share of weights that differ from those the ticket is trained from; Impossible where none does."""
        share = float((self._weights(made) != self._weights(self.start)).float().mean())
        if not share:
            raise Impossible("nothing would change: the model's weights do not come from the seed")
        return share

    def _signs(self, number: int) -> "_Altered":
        """Return the ticket's mask with initial sizes drawn anew, and the signs of its own weights."""
        made = with_signs(self._fresh(number, SIGNS), self.start, self._problem())
        return _Altered(self._share_of_others(made), self.ticket, replace(made, epoch=self.start.epoch))

    def _rebased(self, number: int) -> "_Altered":
        """Return the mask permuted to new weights, which were trained as far as the ticket's own where it starts.

        Units are matched by what both dense networks do at the end of their training.
        """
        cell, epochs = self.cell, self.cell.config.training.epochs
        feed = cell.splits.train.feed(cell.config.batch_size, cell.config.seed, "re-basin")
        example = first_inputs(cell.task, feed)
        chain = Chain.of(load_weights(cell.model, self.start.tensors).eval(), example)
        config = replace(cell.config, seed=cell.config.seed + number)
        to_train = self.store, self.progress, self.ticket.silent
        other = replace(cell, config=config, model=self._fresh(number, REBASED)).trainer(*to_train)
        (own,) = cell.trainer(*to_train).trajectory(None, self.start, [epochs])
        seen = [
            chain.inputs(
                cell.runtime.place(load_weights(cell.model, state.tensors).eval()), batches, cell.task, cell.runtime
            )
            for state in (own, other.dense_at(epochs))
            for batches in [(item.batch for item in islice(feed.epoch(0), MATCHING_BATCHES))]
        ]
        permuted = chain.permuted(self.ticket, matched(*seen))
        return _Altered(changed(self.ticket, permuted), permuted, other.dense_at(self.start.epoch))

    def _train(self, number: int, ticket: Ticket, start: State) -> State:
        """Train as the ticket is trained, in the order of data that belongs to one of the seeds."""
        config = replace(self.cell.config, seed=self.cell.config.seed + number)
        trainer = replace(self.cell, config=config).trainer(self.store, self.progress, self.ticket.silent)
        return trainer.fit(ticket, start)

    @property
    def _measure(self) -> Measure:
        return self.cell.task.measure

    def _score(self, state: State) -> float:
        return self._measure.of(self.cell.evaluate(state, "test").metric)

    def _generator(self, number: int, *purpose: str) -> torch.Generator:
        return generator(self.cell.config.seed + number, "audit", *purpose)

    def _weights(self, state: State) -> torch.Tensor:
        """Return the weights that the ticket covers, in one vector."""
        problem = self._problem()
        return problem.layout.flatten(problem.values_of(state))

    def _problem(self) -> Problem:
        """Return the problem of drawing another ticket at the same weights, over the ticket's own layers."""
        problem = self.cell.problem(self.start, self.store, self.progress, None)
        # A seed of its own: a random ticket would otherwise be compared with itself.
        seed = derive(self.cell.config.seed, "audit", "overlap")
        return replace(problem, layout=self._layout(), seed=seed)

    @property
    def granularity(self) -> Granularity:
        """Which weights the ticket keeps or prunes together."""
        return GRANULARITIES.read(self.ticket.granularity)

    def _layout(self) -> Layout:
        """Return where the ticket's own layers lie in one vector."""
        found = Layout.of(self.ticket.items())
        return replace(found, wirings=self.cell.survey.layout.wirings)

    def _groups(self) -> Groups:
        """Return the groups of weights that the ticket keeps or prunes."""
        finder = Random(granularity=self.granularity)
        return self.granularity.groups(following(finder, self._problem()).layout)

    def _overlap(self) -> dict[str, dict[str, float]]:
        """Compare with a random and a magnitude ticket of the same density at the same weights."""
        problem = self._problem()
        found: dict[str, dict[str, float]] = {}
        for finder in (Random(granularity=self.granularity), Magnitude(granularity=self.granularity)):
            other = draw(finder, problem, self._density()).ticket
            by_layer = other.density_by_layer
            chance = sum(kept * by_layer[name] for name, kept in self.ticket.kept_by_layer.items()) / self.ticket.kept
            found[finder.name] = {"shared": shared(self.ticket, other), "by_chance": chance}
        return found

    def _density(self) -> Density:
        """Return the density of another ticket like this one: by layers where the granularity fixes that of some."""
        fixed = getattr(self.granularity, "fixed_density", None)
        if fixed is None or self.ticket.density == 1:
            return self.ticket.density
        whole = [escape(name) for name, density in self.ticket.density_by_layer.items() if density == 1]
        return {**dict.fromkeys(whole, 1.0), "*": fixed} if whole else fixed

    def _connectivity(self, trained: list[State]) -> Connectivity | None:
        """Walk from the first seed's training to the second's; None where there is one training alone."""
        if len(trained) < 2:
            return None
        return walk(trained[0].tensors, trained[1].tensors, self._score_between, self._measure)

    def _score_between(self, tensors: dict[str, Any]) -> float:
        """Return the score on test data of values between two networks, whose running statistics are estimated anew."""
        model = load_weights(self.cell.model, tensors)
        for module in statistics_modules(model):
            module.reset_running_stats()
        if lacks_statistics(model):
            feed = self.cell.splits.train.feed(self.cell.config.batch_size, self.cell.config.seed, "statistics")
            batches = (item.batch for item in islice(feed.epoch(0), STATISTICS_BATCHES))
            with seeded(0, "statistics", device=self.cell.runtime.device):
                model = estimate_statistics(model, batches, self.cell.task, self.cell.runtime)
        return self._score(State.of(model, base=self.cell.model))
