"""What an audit found, and its verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from tombola.core.measure import ACCURACY, Measure
from tombola.studies.audit.connectivity import Connectivity
from tombola.studies.statistics import Difference, Summary, compare_paired, summarise

INFORMATIVE, NOT_INFORMATIVE, UNDECIDED, IMPOSSIBLE = "informative", "not informative", "undecided", "not possible"


@dataclass(frozen=True)
class Check:
    """One alteration of the ticket and what became of it.

    changed: share of the kept weights (or, for new initial weights, of all prunable ones) that it changed. scores: of
    the altered tickets after training on test data, one a seed. difference: what they gain on the ticket's own. why: a
    check was not possible.
    """

    # What an alteration's score, beside the ticket's own, says about the ticket: informative where it is worse.
    meaning: ClassVar[Mapping[str, str]] = {
        "worse": INFORMATIVE,
        "better": NOT_INFORMATIVE,
        "not worse": NOT_INFORMATIVE,
        "undecided": UNDECIDED,
    }

    name: str
    changed: float | None = None
    scores: tuple[float, ...] = ()
    difference: Difference | None = None
    why: str = ""
    measure: Measure = ACCURACY

    @property
    def verdict(self) -> str:
        """What the score says about the ticket, in words."""
        return self.meaning[self.difference.verdict] if self.difference else IMPOSSIBLE

    @classmethod
    def judged(
        cls, name: str, changed: float, scores: Sequence[float], own: Sequence[float], measure: Measure = ACCURACY
    ) -> Self:
        """Return the check of scores beside the ticket's own, of the same seeds in the same order."""
        return cls(name, changed, tuple(scores), compare_paired(scores, own, measure=measure), measure=measure)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        found = self.difference.summary if self.difference else None
        gain = found and {
            "mean": -found.mean,
            "low": None if found.high is None else -found.high,
            "high": None if found.low is None else -found.low,
        }
        return {
            "name": self.name,
            "verdict": self.verdict,
            "why": self.why,
            "changed": self.changed,
            self.measure.tests: list(self.scores),
            "ticket_gains": gain,
            "p": self.difference and self.difference.p,
        }


@dataclass(frozen=True)
class Transfer(Check):
    """A ticket carried over to other initial weights: whether it does there as well as with its own."""

    meaning: ClassVar[Mapping[str, str]] = {
        "worse": "does not transfer",
        "better": "transfers",
        "not worse": "transfers",
        "undecided": UNDECIDED,
    }


@dataclass(frozen=True)
class Report:
    """What an audit found.

    scores: of the ticket itself, one a seed. empty_layers: those without any weight. overlap: share of the ticket's
    weights that a random and a magnitude ticket keep too, each beside what chance gives at these layers' densities.
    other_weights: it was drawn at other weights than those that it is trained from, such as the trained ones.
    transfers: to other initial weights, of which the exit status says nothing.
    """

    seeds: tuple[int, ...]
    scores: tuple[float, ...]
    checks: tuple[Check, ...]
    empty_layers: tuple[str, ...]
    overlap: Mapping[str, Mapping[str, float]]
    connectivity: Connectivity | None
    other_weights: bool = False
    transfers: tuple[Transfer, ...] = ()
    measure: Measure = ACCURACY

    @property
    def score(self) -> Summary:
        """The ticket's own score."""
        return summarise(self.scores)

    @property
    def status(self) -> int:
        """Exit status: 1 where a check is not informative, else 3 where one is undecided or none possible, else 0."""
        verdicts = [check.verdict for check in self.checks]
        if NOT_INFORMATIVE in verdicts:
            return 1
        return 3 if UNDECIDED in verdicts or set(verdicts) == {IMPOSSIBLE} else 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        own, measure = self.score, self.measure
        return {
            "seeds": list(self.seeds),
            "indicative": own.indicative,
            measure.tests: list(self.scores),
            f"{measure.test}_mean": own.mean,
            f"{measure.test}_std": own.std,
            **measure.noted(),
            "checks": [check.to_dict() for check in self.checks],
            "transfers": [transfer.to_dict() for transfer in self.transfers],
            "empty_layers": list(self.empty_layers),
            "overlap": {name: dict(found) for name, found in self.overlap.items()},
            "other_weights": self.other_weights,
            "connectivity": self.connectivity and self.connectivity.to_dict(),
            "status": self.status,
        }
