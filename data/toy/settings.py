"""What the settings of the generated data set may be."""

from ml_collections import ConfigDict

LEAST_SIZE = 16  # Pixels; below, most objects are single pixels.


def check(settings: ConfigDict) -> None:
    """Checks `config.data.toy`.

    Args:
      settings: to check.

    Raises:
      ValueError: a setting is out of its range.
    """
    counts = ("source_count", "target_count", "validation_count")
    least = {"height": LEAST_SIZE, "width": LEAST_SIZE} | dict.fromkeys((*counts, "seed", "shift"), 0)
    for name, bound in least.items():
        if not bound <= settings[name] < float("inf"):
            raise ValueError(f"data.toy.{name}: expected a number of at least {bound}, found {settings[name]}.")
    if not any(settings[name] for name in counts):
        raise ValueError(f"data.toy: expected at least one image, found {', '.join(counts)} of 0.")
