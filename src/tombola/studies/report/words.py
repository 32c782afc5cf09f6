"""What was compared and what was found, in a few sentences made from the figures."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tombola.core.measure import ACCURACY
from tombola.core.parts import called
from tombola.studies.dense import DenseNetwork, dense_beside
from tombola.studies.figures.scores import percent, some_densities
from tombola.studies.reading import Study, falls
from tombola.studies.table import Row, gains_of, warnings_of

_MOST_NAMES = 8
_MOST_SENTENCES = 6


def listed(names: Sequence[str], most: int = _MOST_NAMES) -> str:
    """Return names in a sentence; of many, how many more there are."""
    shown = list(names) if len(names) <= most else [*names[: most - 1], f"{len(names) - most + 1} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def title_of(study: Study) -> str:
    """Return what a comparison is of: network and data."""
    configs = list(study.configurations.values())
    pairs = {(called(config.get("model")), called(config.get("data"))) for config in configs if config}
    return " and ".join(f"{model} on {data}" for model, data in sorted(pairs)) or "a comparison"


def compared(study: Study) -> Iterator[str]:
    """Give what was compared."""
    finders, densities, seeds = study.finders, study.densities, study.seeds
    yield (
        f"{_count(len(finders), 'finder')} ({listed(finders)}) at {_count(len(densities), 'density', 'densities')} "
        f"({listed([percent(density) for density in densities])}) over {_count(len(seeds), 'seed')}: {title_of(study)}."
    )
    failed = sum(bool(o.failure) for o in study.outcomes)
    state = [f"{len(study.done)} of {_count(len(study.outcomes), 'cell')} are finished"]
    if failed:
        state.append(f"{failed} failed")
    if study.missing:
        state.append(f"{len(study.missing)} are missing, so that what follows is not the last word")
    yield f"{listed(state)}."


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def finding(study: Study, against: str) -> Iterator[str]:
    """Give what was found: the best at some densities, where finders fall behind, and what one is beside the others."""
    if not study.dense:
        yield "Nothing is finished yet."
        return
    yield from _dense(study)
    for density in some_densities(study.densities, _MOST_SENTENCES):
        rows = [row for row in study.rows if row.density == density]
        if rows:
            yield _best(rows, density, study.dense)
    if len(study.densities) > 1:
        yield from _falls(study)
    yield from _verdicts(study, against)
    if any(row.score.indicative for row in study.rows):
        yield "Fewer than five seeds are indicative, whatever an interval says."


def _dense(study: Study) -> Iterator[str]:
    """Give what each dense network reaches; of many, only that there are several."""
    if len(study.dense) > _MOST_SENTENCES:
        yield f"There are {len(study.dense)} dense networks; each finder is held against its own."
        return
    for network in study.dense:
        found = network.summary
        whose = f" of {listed(network.finders)}" if len(study.dense) > 1 else ""
        reached = study.measure.with_unit(study.measure.spread(found.mean, found.std))
        if study.measure == ACCURACY:
            yield f"The dense network{whose} reaches {reached} of the test data (n = {found.n})."
        elif whose:
            yield f"The {study.measure.name} of the dense network{whose} on the test data is {reached} (n = {found.n})."
        else:
            yield f"The dense network's {study.measure.name} on the test data is {reached} (n = {found.n})."


def _falls(study: Study) -> Iterator[str]:
    found = falls(study.rows, study.dense)
    held = [fall.finder for fall in found if fall.density is None and fall.holds == study.densities[-1]]
    if held:
        smallest = percent(study.densities[-1])
        within = study.measure.tolerance_words
        which = "the" if len(study.dense) == 1 else "its own"
        yield f"Within {within} of {which} dense network down to {smallest} of the weights: {listed(held)}."
    late = min((fall for fall in found if fall.density), key=lambda fall: fall.density or 0, default=None)
    if late:
        others = "Of the others, " if held else ""
        behind = f"more than {study.measure.tolerance_words} {study.measure.worse_side} dense"
        yield f"{others}{late.finder} is the last to fall {behind}, at {late.words} of weights."


def _best(rows: Sequence[Row], density: float, dense: Sequence[DenseNetwork]) -> str:
    measure = rows[0].measure
    best = max(rows, key=lambda row: measure.gain(row.score.mean, 0.0))
    below = dense_beside(dense, best.finder, best.seeds) - best.score.mean
    points = " points" if measure.in_percent else ""
    beside = f"{measure.number(abs(below))}{points} {'below' if below >= 0 else 'above'} dense"
    alone = " alone" if len(rows) == 1 else ""
    found = f"{best.words} (n = {best.score.n}), {beside}"
    return f"At {percent(density)}, {best.finder}{alone} has the best mean: {found}."


def _verdicts(study: Study, against: str) -> Iterator[str]:
    """Give, for each verdict, over whom and where the chosen finder has it."""
    found: dict[str, dict[str, list[float]]] = {}
    for (other, density), (difference, _) in gains_of(study.rows, against).items():
        found.setdefault(difference.verdict, {}).setdefault(other, []).append(density)
    for verdict in ("better", "worse", "not worse"):
        if verdict in found:
            yield f"{against} is {verdict} than {_places(study, found[verdict])}, by the 95 % interval paired by seed."
    if "undecided" in found:
        others = _places(study, found["undecided"])
        yield f"The seeds do not decide whether {against} is better or worse than {others}."


def _places(study: Study, at: Mapping[str, list[float]]) -> str:
    """Return finders with the densities that are meant, those of the same densities together."""
    together: dict[tuple[float, ...], list[str]] = {}
    for other, densities in at.items():
        together.setdefault(tuple(densities), []).append(other)
    everywhere = tuple(study.densities)
    return "; ".join(
        listed(names) + (" at every density" if where == everywhere else f" at {listed([percent(d) for d in where])}")
        for where, names in together.items()
    )


def warnings(study: Study) -> Iterator[str]:
    """Give what deserves a look: warnings of tickets, failures, files that could not be used."""
    yield from warnings_of(study.rows)
    for outcome in study.outcomes:
        if outcome.failure:
            cell = outcome.cell
            yield f"{cell.label} at {percent(cell.density)}, seed {cell.seed}, failed: {outcome.failure}"
    yield from study.problems


def differing(configs: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return what all configurations have in common, and what is each one's own, by finder."""
    known = [config for config in configs.values() if config]
    common = {
        key: value
        for key, value in (known[0] if known else {}).items()
        if key not in ("seed", "density") and all(other.get(key) == value for other in known)
    }
    own = {
        label: {k: v for k, v in config.items() if k not in common and k not in ("seed", "density")}
        for label, config in configs.items()
    }
    return common, own
