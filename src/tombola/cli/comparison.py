"""A comparison's table for people, whether it has just been made or is read back."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rich.table import Table

from tombola.cli.show import FEW_SEEDS, Column, fitted_table, show_failures, show_text
from tombola.core.measure import ACCURACY

if TYPE_CHECKING:
    from tombola.studies import Row


def comparison_table(
    title: str, rows: "Sequence[Row]", first: str, width: int | None, dense: Mapping[str, float] = MappingProxyType({})
) -> tuple[Table, list[str]]:
    """Return the table for a terminal of some width, and the titles of the columns for which it has no room.

    dense: mean score of the dense network by finder, a column where finders have different ones.
    """
    from tombola.studies.table import gains_of

    own, gains = dense if _are_several(dense) else {}, gains_of(rows, first)
    measure = rows[0].measure if rows else ACCURACY
    columns = (
        Column("finder", tuple(row.finder for row in rows)),
        Column("density", tuple(f"{100 * row.density:.4g} %" for row in rows)),
        Column("kept", tuple(f"{row.kept:,}" for row in rows), 3),
        Column(f"test {measure.name}", tuple(row.words for row in rows)),
        Column("dense", tuple(measure.shown(own[row.finder]) if own else "" for row in rows), 1),
        Column("kept weights", tuple(row.kept_weights.words if row.kept_weights else "" for row in rows), 2),
        Column("trained from", tuple(_unless_usual(row.trained_from, "rewind") for row in rows), 3),
        Column("n", tuple(f"{row.score.n}" for row in rows), 1),
        Column("seconds", tuple(f"{row.seconds:,.1f}" for row in rows), 2),
        Column(
            "dense trainings",
            tuple("" if row.dense_equivalents is None else f"{row.dense_equivalents:.2f}" for row in rows),
            5,
        ),
        Column("LTR takes", tuple("" if not row.speed_up else f"{row.speed_up:.1f} x as long" for row in rows), 4),
        Column(
            f"{first} is",
            tuple(
                f"{gain[0].verdict} ({measure.signed(gain[0].summary.mean)})" if gain else ""
                for gain in (gains.get((row.finder, row.density)) for row in rows)
            ),
        ),
    )
    return fitted_table(title, columns, width)


def _unless_usual(value: str, usual: str) -> str:
    return "" if value == usual else value


def _are_several(dense: Mapping[str, float]) -> bool:
    return len(set(dense.values())) > 1


def explain(
    rows: "Sequence[Row]",
    against: str,
    dense: Mapping[str, float],
    failures: Sequence[Mapping[str, Any]],
    left_out: Sequence[str],
) -> None:
    """Say in lines what a table's columns mean, and what deserves a look.

    against: the finder that others are held against. dense: as `comparison_table` takes it.
    """
    measure = rows[0].measure if rows else ACCURACY
    several = "dense: the network that was trained as the row's tickets were"
    reached = several if _are_several(dense) else f"dense network: {measure.shown(next(iter(dense.values())))}"
    show_text(f"{reached}. seconds, and dense trainings' worth of work, count from the initial weights on.")
    if len({row.finder for row in rows}) > 1:
        show_text(
            f"The last column says what {against} is beside the row's finder, by the 95 % interval of its gain, paired "
            "by seed and holding over all densities together: better, worse, "
            + ("not worse (by half a point), " if measure.in_percent else "")
            + "or undecided."
        )
    if any(row.kept_weights for row in rows) and "kept weights" not in left_out:
        show_text(
            "kept weights: the sparse network at the end of the finder's own training, whose mask moved with it; the "
            f"test {measure.name} beside it is that of the ticket, which trains anew."
        )
    if any(row.speed_up for row in rows) and "LTR takes" not in left_out:
        show_text(
            f"LTR takes: its seconds over the finder's, where the finder's mean {measure.name} is no worse than LTR's."
        )
    if any(row.score.indicative for row in rows):
        show_text(FEW_SEEDS)
    from tombola.studies.table import warnings_of

    for warning in warnings_of(rows):
        show_text(f"warning: {warning}")
    show_failures(failures)
