"""Predictions as files: label ids for the programs that score them, colours for people; named after the images."""

import collections
import re
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from ass_jax import visualization

_THREADS = 4
_MOST_WAITING = 32  # Predictions that wait for a thread; more would only fill the memory.


class PredictionFiles:
    """Writes every prediction into two folders, in threads while the devices work; a context manager.

    The folder `path` holds 8-bit greyscale PNGs of raw ids, the numbers of the data set's own label files: for
    Cityscapes' classes, what its test server takes. `path` + "_color" holds the same predictions as palette PNGs of
    train ids, which viewers show in the colours of the classes.
    """

    def __init__(self, path: Path, class_table: Any):
        """Makes the folders.

        Args:
          path: of the folder of raw ids; the other one lies beside it.
          class_table: `palette` uint8 `[C, 3]`, and `raw_ids` of the `C` classes or None: the train ids themselves.
        """
        self.path, self.color_path = path, path.with_name(f"{path.name}_color")
        for folder in (self.path, self.color_path):
            folder.mkdir(parents=True, exist_ok=True)
        self.count = 0
        self._palette = class_table.palette
        raw_ids = class_table.raw_ids
        self._raw_ids = np.arange(len(self._palette)) if raw_ids is None else np.asarray(raw_ids)
        self._names: dict[str, str] = {}
        self._threads = ThreadPoolExecutor(_THREADS, "prediction_files")
        self._waiting: collections.deque[Future] = collections.deque()

    def add(self, name: str, prediction: np.ndarray) -> None:
        """Takes one prediction.

        Args:
          name: of the image; see `file_name`. One that gives no file name is replaced by the image's number.
          prediction: train ids `[Y, X]`, not changed afterwards.

        Raises:
          ValueError: another image has the same file name.
          OSError: an earlier prediction could not be written.
        """
        number = self.count * jax.process_count() + jax.process_index()
        file = file_name(name) or f"{number:06}.png"
        if file in self._names:
            raise ValueError(
                f"The predictions of the images {self._names[file]!r} and {name!r} would both be the file {file}; "
                "expected names that differ in their letters, digits, '-' and '.'."
            )
        self._names[file] = name
        self.count += 1
        while len(self._waiting) >= _MOST_WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._threads.submit(self._write, file, prediction))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> None:
        """Waits until all files are written; raises the first failure unless another error is on its way."""
        self._threads.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for future in self._waiting:
                future.result()

    def _write(self, file: str, prediction: np.ndarray) -> None:
        visualization.save_picture(self.path / file, self._raw_ids[prediction].astype(np.uint8))
        visualization.save_prediction(self.color_path / file, prediction, self._palette)


def file_name(name: str) -> str:
    """Returns the file name for an image's name, free of folders; empty if nothing of it can be used.

    Folders become a part of the file name, unless the next part begins with them anyway: `aachen/aachen_000000_000019`
    gives `aachen_000000_000019.png`, the name that Cityscapes' test server looks for. Whatever is no letter, digit,
    "-", "_" or "." becomes "_", and dots that begin a part are dropped, so that no name leads out of a folder.
    """
    parts = [re.sub(r"[^\w.-]", "_", part).lstrip(".") for part in re.split(r"[/\\]", name)]
    parts = [part for part in parts if part]
    pairs = zip(parts, [*parts, ""][1:], strict=True)
    kept = [part for part, following in pairs if not following.startswith(f"{part}_")]
    return f"{'_'.join(kept)}.png" if kept else ""
