"""Times repeated steps and summarises the times. Needs no framework."""

import math
import resource
import statistics
import sys
from collections.abc import Callable, Sequence

Run = Callable[[int], float]  # Runs a number of steps, waits for the last one and returns the seconds.

SHORTEST_SAMPLE = 0.2  # Seconds: long enough that starting and awaiting a sample do not count.
_LONGEST_SAMPLE = 1000  # Steps.


def steps_per_sample(run: Run, shortest: float = SHORTEST_SAMPLE) -> int:
    """Returns how many steps make a sample of at least `shortest` seconds; runs a few, which warms up."""
    run(1)
    return max(1, min(_LONGEST_SAMPLE, math.ceil(shortest / run(1))))


def step_seconds(run: Run, samples: int) -> dict:
    """Returns the seconds of one step over several samples: see `spread`; and `steps_per_sample`."""
    steps = steps_per_sample(run)
    return spread([run(steps) / steps for _ in range(samples)]) | {"steps_per_sample": steps}


def spread(values: Sequence[float]) -> dict:
    """Returns `median`, the quartiles `lower` and `upper`, and the number of `samples`."""
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"median": median, "lower": lower, "upper": upper, "samples": len(values)}


def peak_rss() -> int:
    """Returns the peak resident memory of this process, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
