"""Numbers of the page as text; what is no number is a dash."""

from collections.abc import Sequence
from typing import Any

ABSENT = "–"


def percentage(score: Any) -> float | None:
    """Returns a share of 1 in per cent; None for what is no number."""
    return 100 * score if isinstance(score, int | float) else None


def percent(score: Any) -> str:
    """Returns a share of 1 in per cent, such as `52.1`."""
    return f"{100 * score:.1f}" if isinstance(score, int | float) else ABSENT


def signed(score: Any) -> str:
    """Returns a difference of shares of 1 in per cent, such as `+1.3`."""
    return f"{100 * score:+.1f}".replace("-", "−") if isinstance(score, int | float) else ABSENT


def grouped(number: Any) -> str:
    """Returns a whole number in groups of three digits."""
    return f"{number:,}" if isinstance(number, int) else ABSENT


def whole(number: Any) -> int:
    """Returns a whole number; 0 for anything else."""
    return number if isinstance(number, int) else 0


def hex_colour(colour: Sequence[int]) -> str:
    """Returns a colour, (red, green, blue), as CSS has it."""
    return "#" + "".join(f"{part & 255:02x}" for part in colour)
