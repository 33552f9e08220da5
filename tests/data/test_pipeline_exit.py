"""Python exits cleanly while iterators are still alive, as in a notebook."""

import subprocess
import sys
from pathlib import Path

from data import pipeline

ROOT = Path(__file__).resolve().parents[2]

# Several iterators that prefetch in Python: a single one often exits cleanly by chance.
PROGRAM = """
import json, sys
from ml_collections import ConfigDict
from data import pipeline
config = ConfigDict(json.loads(sys.argv[1]))
iterators = [pipeline.training_batches(config) for _ in range(8)]
for batches in iterators:
    next(batches)
print("at the end")
"""


def test_program_exits_cleanly_with_live_iterators(toy_config):
    toy_config.data.toy.update(source_count=7, target_count=6, validation_count=5)
    toy_config.data.labelled_count = 3
    toy_config.data.update(decoded_memory=0, prefetch=100_000)  # Still reading when the program ends.
    pipeline.prepare(toy_config)
    line = [sys.executable, "-c", PROGRAM, toy_config.to_json()]
    found = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (found.returncode, found.stdout) == (0, "at the end\n"), found.stderr
