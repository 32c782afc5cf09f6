"""Densities and sparsities as people write them, read exactly."""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from tombola.core.ranking import check_density
from tombola.core.selection import Density, parse_densities
from tombola.errors import UsageError

_POWER = re.compile(r"^\s*([0-9.]+(?:e-?[0-9]+)?)\s*\*\*\s*([0-9]+)\s*$", re.IGNORECASE)
_POWERS = re.compile(
    r"^\s*([0-9.]+)\s*\*\*\s*\[\s*([0-9]{1,5})\s*\.\.\s*([0-9]{1,5})\s*(?:\.\.\s*([0-9]{1,5})\s*)?\]\s*$"
)
# Numbers written with more digits in their exponent are no densities, and would take forever to read exactly.
_LONG_EXPONENT = re.compile(r"e[+-]?[0-9]{4,}", re.IGNORECASE)


def parse_density(value: Any) -> Density:
    """Return a density in (0, 1], or several by patterns of names.

    value: a number or a text such as 0.02, 2% or 0.8**22; a mapping of patterns to such values; or a text such as
    "layer4.*=5%; fc.weight=1; *=20%", of which the first pattern that matches a layer counts.
    """
    if isinstance(value, Mapping):
        return parse_densities({pattern: _one(each) for pattern, each in value.items()})
    if isinstance(value, str) and "=" in value:
        pairs = [pair.partition("=") for pair in value.strip("{} ").split(";") if pair.strip()]
        return parse_density({pattern.strip(): each for pattern, _, each in pairs})
    return _one(value)


def density_list(value: Any) -> list[Density]:
    """Return what a text or number means where several densities can stand.

    0.8**[2..22] means those of 21 powers, 0.8**[2..22..2] those of every second one.
    """
    found = _POWERS.match(str(value))
    if found is None:
        return [parse_density(value)]
    first, last, step = int(found[2]), int(found[3]), int(found[4] or 1)
    if first > last or last > 9999 or not step:
        raise UsageError(f"takes powers such as 0.8**[2..22] or 0.8**[2..22..2], got {value!r}", option="density")
    return [parse_density(f"{found[1]}**{power}") for power in range(first, last + 1, step)]


def _one(value: Any) -> float:
    number = _number(value, "density")
    if not 0 < number <= 1:
        raise UsageError(f"must lie in (0, 1], got {value}{_in_percent(number)}", option="density")
    # Numbers stay what they are; texts are read exactly.
    return check_density(float(number))


def parse_sparsity(text: str | float) -> float:
    """Return the density that belongs to a sparsity in [0, 1), such as 0.98 or 98%."""
    value = _number(text, "sparsity")
    if not 0 <= value < 1:
        words = f"must lie in [0, 1) or be a percentage below 100%, got {text}{_in_percent(value)}"
        raise UsageError(words, option="sparsity")
    return float(1 - value)


def _in_percent(value: Fraction) -> str:
    """Return the percentage that a number above 1 probably means."""
    return f"; did you mean {float(value):g}%?" if 1 < value < 100 else ""


def density_words(density: Density) -> str:
    """Return a density as it is written: 0.02, or patterns with theirs."""
    if isinstance(density, Mapping):
        return "; ".join(f"{pattern}={value:.4g}" for pattern, value in density.items())
    return f"{density:.4g}"


def _number(text: Any, option_name: str) -> Fraction:
    """Read a decimal, percentage or power exactly, so that 98 % sparse is 0.02 and not 0.020000000000000018."""
    content = str(text).strip()
    power = _POWER.match(content)
    if power and len(power[2]) > 4:
        raise UsageError(f"takes powers up to 9999, got {text!r}", option=option_name)
    try:
        if _LONG_EXPONENT.search(content) or isinstance(text, bool):
            raise ValueError(content)
        if power:
            return Fraction(power[1]) ** int(power[2])
        if content.endswith("%"):
            return Fraction(content[:-1].strip()) / 100
        return Fraction(content)
    except (ValueError, ZeroDivisionError):
        got = repr(text) if content else "nothing"
        raise UsageError(f"must be a number such as 0.02, 2% or 0.8**22, got {got}", option=option_name) from None
