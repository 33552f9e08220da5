"""One operation, computed in different ways on different platforms."""

from collections.abc import Callable
from typing import Any

from jax import lax

# Of JAX, as far as they differ here. "default" stands for all others, AMD's GPUs among them.
PLATFORMS = ("cpu", "cuda", "tpu", "default")

# TPU: up to this many images of a device, XLA parts maps by eight to fill the registers, and copies them for it.
_FEW_IMAGES = 4


def are_few(images: int) -> bool:
    """Says whether there are so few images on a TPU that XLA's own way copies maps; no if their number is open."""
    return isinstance(images, int) and images <= _FEW_IMAGES  # Exported programs leave it open.


def by_platform(choose: Callable[[str], Any], implementation: Callable[[Any], Any], *arguments: Any) -> Any:
    """Computes an operation in the way that is chosen for the platform on which the program will run.

    That platform is known when a program is compiled, not when it is traced, and an exported program may serve several.
    So the choice is made for each, and JAX keeps the one that is needed.

    Args:
      choose: from one of `PLATFORMS` to a way.
      implementation: from a way to the function of the arguments.
      *arguments: arrays, or trees of them.

    Returns:
      What the function returns, of the same shapes and types in all ways.
    """
    ways = {platform: choose(platform) for platform in PLATFORMS}
    functions = {way: implementation(way) for way in ways.values()}
    default = functions[ways.pop("default")]
    others = {platform: functions[way] for platform, way in ways.items() if functions[way] is not default}
    return lax.platform_dependent(*arguments, **others, default=default) if others else default(*arguments)
