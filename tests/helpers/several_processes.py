"""Starts the processes of one run on this machine; run as a program, it is one of them.

The loop, its checkpoints and the exit of `main.py` are the real ones. The step is one line with one exchange between
the processes, and there is no TensorFlow: both would take most of the time.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.helpers import quick_compilation

ROOT = Path(__file__).parents[2]
SIZE = 400_000  # Numbers in the state: a checkpoint's files are far larger than the log.
SETTINGS = {
    "checkpoint.every": 10,
    "evaluation.every": 0,
    "teacher.decay": 0.0,
    "log_every": 1,
    "distributed.processes": 2,
}


class Pair:
    """Two processes of one run; a context manager that leaves none of them behind."""

    def __init__(self, workdirs, steps, pause=0.0, **settings):
        """Trains in each of `workdirs` in turn, to `steps`; every step takes at least `pause` seconds."""
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        environment = quick_compilation.environment(JAX_NUM_CPU_DEVICES="1")
        settings = SETTINGS | settings | {"steps": steps, "distributed.coordinator": f"127.0.0.1:{port}"}
        work = json.dumps({"workdirs": list(map(str, workdirs)), "pause": pause, "settings": settings})
        self.children = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.helpers.several_processes", str(index), work],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for index in range(2)
        ]
        self._texts, self._changed = ["", ""], threading.Condition()
        self._readers = [threading.Thread(target=self._read, args=(index,), daemon=True) for index in range(2)]
        for reader in self._readers:
            reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for child in self.children:
            child.kill()
            child.wait()

    def wait_for(self, words, timeout=120):
        """Waits until process 0 prints `words`."""
        with self._changed:
            assert self._changed.wait_for(lambda: words in self._texts[0], timeout), self._texts

    def send(self, number, *indices):
        """Sends a signal to one or both processes."""
        for index in indices:
            os.kill(self.children[index].pid, number)

    def kill(self, index):
        """Kills one process, as a power cut would."""
        self.send(signal.SIGKILL, index)

    def wait(self, timeout=120):
        """Returns exit codes and outputs of both once they have ended."""
        ends = time.monotonic() + timeout
        for child in self.children:
            child.wait(timeout=max(0.0, ends - time.monotonic()))
        for reader in self._readers:
            reader.join()
        return [child.returncode for child in self.children], list(self._texts)

    def _read(self, index):
        for line in self.children[index].stdout:
            with self._changed:
                self._texts[index] += line
                self._changed.notify_all()


def _work(index, workdirs, pause, settings):
    import jax
    import jax.numpy as jnp
    import numpy as np

    from ass_jax.method.state import TrainState
    from ass_jax.runtime import distributed
    from ass_jax.training import loop, validation
    from tests.helpers import small_runs as parts

    noise = np.random.default_rng(0).random(SIZE, np.float32)  # Does not compress.

    def small_state(**_):
        return TrainState(jnp.int32(0), {"segmenter": {"weights": jnp.ones(SIZE)}}, {}, (), None)

    def small_step(state, batch, **_):
        """Mixes the images of both processes into the weights, so that the data of each counts."""
        mean = jnp.mean(batch["source"]["image"] / 255.0)
        params = jax.tree.map(lambda weights: weights * 0.9 + mean * noise, state.params)
        return state.replace(step=state.step + 1, params=params), {"loss/mean": mean, "skipped": 0.0 * mean}

    loop.create_state, loop.train_step = small_state, small_step
    validation.score_all = lambda *_, **__: parts.scores_of(0.5)
    config = parts.configuration("joint", **settings)
    config.distributed.index = index
    distributed.PARTING = 3  # Shortens the wait after an error in only one process.
    distributed.join(config.distributed)

    def training_batches(start):
        for batch in parts.training_batches(config, start + 1000 * index, []):  # Each process has its own images.
            time.sleep(pause)
            yield batch

    for workdir in workdirs:
        with distributed.end_together():
            parts.run(config, Path(workdir), training_batches)


if __name__ == "__main__":
    _work(int(sys.argv[1]), **json.loads(sys.argv[2]))
