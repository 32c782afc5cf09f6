"""Densities and sparsities as people write them, read exactly."""

import re
from fractions import Fraction

from tombola.errors import UsageError

_POWER = re.compile(r"^\s*([0-9.]+(?:e-?[0-9]+)?)\s*\*\*\s*([0-9]+)\s*$", re.IGNORECASE)


def parse_density(text: str | float) -> float:
    """Return a density in (0, 1] from a number or a text such as 0.02, 2% or 0.8**22."""
    value = _number(text, "density")
    if not 0 < value <= 1:
        raise UsageError(f"--density must lie in (0, 1], got {text}")
    return float(value)


def parse_sparsity(text: str | float) -> float:
    """Return the density that belongs to a sparsity in [0, 1), such as 0.98 or 98%."""
    value = _number(text, "sparsity")
    if not 0 <= value < 1:
        raise UsageError(f"--sparsity must lie in [0, 1) or be a percentage below 100%, got {text}")
    return float(1 - value)


def _number(text: str | float, option_name: str) -> Fraction:
    """Read a decimal, percentage or power exactly, so that 98 % sparse is 0.02 and not 0.020000000000000018."""
    content = str(text).strip()
    power = _POWER.match(content)
    if power and len(power[2]) > 4:
        raise UsageError(f"--{option_name} takes powers up to 9999, got {text!r}")
    try:
        if power:
            return Fraction(power[1]) ** int(power[2])
        if content.endswith("%"):
            return Fraction(content[:-1].strip()) / 100
        return Fraction(content)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"--{option_name} must be a number such as 0.02, 2% or 0.8**22, got {text!r}") from None
