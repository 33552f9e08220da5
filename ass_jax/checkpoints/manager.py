"""Checkpoints of the training state: written in the background, the latest ones and the best ones kept.

One folder a step, named by its number, with four items: `state` (the arrays), `configuration`, `metrics` and
`checksums` of all three (JSON). A folder appears under its number only when it is complete. Checkpoints that are no
longer kept are renamed into `deleted/` before their files go, so that a crash never leaves half a checkpoint under a
number. Those whose bytes are not what was saved are renamed into `damaged/`, where a user may look at them.
"""

import functools
import logging
import math
import os
from collections.abc import Sequence
from typing import Any, Self, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from ass_jax.checkpoints import integrity, leaves
from ass_jax.checkpoints.integrity import DamagedError
from ass_jax.runtime import distributed

Tree = TypeVar("Tree")

_DELETED = "deleted"
_AVERAGE = ("average/",)  # Where the leaves of the moving average lie.
# Without the notes on arrays that Orbax else writes beside them: only keys of random numbers need any, and no
# checksum guards them.
_ARRAYS = ocp.type_handlers.create_type_handler_registry(
    (jax.Array, ocp.type_handlers.ArrayHandler(array_metadata_store=None)),
    (np.ndarray, ocp.type_handlers.NumpyHandler()),
)


class Checkpoints:
    """The checkpoints of one training run; a context manager that waits for the last save when it is left.

    Every process of a run opens the same directory and makes the same calls. A save goes on in the
    background; if it fails, `check` and the next call that waits for it, any but `latest_step`, raise SaveError.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        keep_latest: int = 3,
        best_metrics: Sequence[str] = ("mIoU",),
        read_only: bool = False,
    ):
        """Opens the directory and clears what killed runs left in it.

        Args:
          directory: made if it does not exist.
          keep_latest: how many of the latest checkpoints are kept; the best one of each metric is kept beside them.
          best_metrics: metrics whose largest value marks a best checkpoint.
          read_only: makes and clears nothing, as a run may be at work there; sees the checkpoints of this moment.

        Raises:
          ValueError: `keep_latest` is below 1.
          DamagedError: there are checkpoints, and none of them is whole.
        """
        if keep_latest < 1:
            raise ValueError(f"Expected at least 1 latest checkpoint to keep, found {keep_latest}.")
        # Orbax reports each stage of a save as information; its warnings and errors stay.
        logging.getLogger("absl").addFilter(_is_no_progress_message)
        path = os.fspath(directory)
        self.directory = path if "://" in path else os.path.abspath(path)
        self._best_metrics = tuple(best_metrics)
        self._read_only = read_only
        self._sound, self._damaged, self._manager = set(), {}, None
        self._set_aside(integrity.look(self.directory))  # First: the manager reads the metrics of all that is there.
        meet = distributed.unless_failing(ocp.multihost.get_barrier_sync_fn())
        rankings = [functools.partial(self._score, metric) for metric in self._best_metrics]
        best = [BestN(get_metric_fn=ranking, n=1, keep_checkpoints_without_metrics=False) for ranking in rankings]
        self._manager = ocp.CheckpointManager(
            self.directory,
            item_handlers={"state": ocp.PyTreeCheckpointHandler(type_handler_registry=_ARRAYS)}
            | {name: ocp.JsonCheckpointHandler() for name in ("configuration", "checksums")},
            options=ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy([LatestN(keep_latest), *best]),
                best_fn=rankings[0],  # Makes the manager keep metrics; `best_step` asks for its own.
                lightweight_initialize=read_only,  # Metrics of damaged checkpoints, which stay, are not read.
                todelete_subdir=_DELETED,
                create=not read_only,
                cleanup_tmp_directories=not read_only,
                # When folders are made in the background and one fails, the process lingers for five minutes.
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False, barrier_sync_fn=meet),
            ),
        )
        self._clear_deleted()

    def save(self, step: int, state: Any, metrics: dict | None, configuration: dict) -> None:
        """Copies the state and starts writing it; its arrays may be donated as soon as this returns.

        Args:
          step: number of steps done; above that of every checkpoint in the directory.
          state: a tree of arrays.
          metrics: JSON-able; those of `best_metrics` rank the checkpoint, lowest if missing, None or not finite.
          configuration: JSON-able; tuples come back as lists.

        Raises:
          ValueError: the step is not after the latest one, or the directory is open for reading only.
          TypeError: metrics or configuration are not JSON-able, or the ranking metric is not a number.
          SaveError: the save before this one failed.
        """
        if self._read_only:
            raise ValueError(f"Cannot save step {step}: {self.directory} is open for reading only.")
        metrics, configuration = leaves.plain_json(metrics or {}), leaves.plain_json(configuration)
        for metric in self._best_metrics:
            self._score(metric, metrics)  # Rejects what cannot be ranked before anything is written.
        self.wait()
        latest = self.latest_step()
        if latest is not None and step <= latest:
            raise ValueError(f"Cannot save step {step}: {self.directory} already has step {latest}.")
        checksums = leaves.checksums_of_items(state=state, configuration=configuration, metrics=metrics)
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(state),
            configuration=ocp.args.JsonSave(configuration),
            checksums=ocp.args.JsonSave(checksums),
        )
        with integrity.told_of_saving(self.directory):
            self._manager.save(step, args=items, metrics=metrics, force=True)
        self._sound.add(step)

    def reached_preemption(self, step: int) -> bool:
        """Returns whether several processes, which all ask, have agreed to stop after this step; False for one."""
        return jax.process_count() > 1 and self._manager.reached_preemption(step)

    def latest_step(self) -> int | None:
        """Returns the highest step, one that is still being written included; None without checkpoints."""
        return max(self._steps(), default=None)

    def latest_sound_step(self) -> int | None:
        """Returns the highest step whose checkpoint is as it was saved; None without checkpoints.

        Every checkpoint that this process did not write is read once, as a whole. Damaged ones are told in a warning
        and, unless the directory is open for reading only, moved into `damaged/`.

        Raises:
          DamagedError: there are checkpoints, and all are damaged; none is moved.
        """
        self.wait()
        found = {}
        for step in reversed(self._steps()):
            reason = None if step in self._sound else self._damage_in(step)
            if not distributed.in_any(reason is not None):
                self._set_aside(found)
                return step
            found[step] = reason or "another process of the run cannot read it"
        if found:
            raise integrity.refusal(self.directory, found)
        return None

    def best_step(self, metric: str | None = None) -> int | None:
        """Returns the step with the largest value of a metric, the later of equals; None if none has a number.

        Args:
          metric: default: the first of `best_metrics`; only the best checkpoints of those are sure to be kept.
        """
        self.wait()
        metric = metric or self._best_metrics[0]
        scores = [(self._score(metric, self._manager.metrics(step) or {}), step) for step in self._steps()]
        score, step = max(scores, default=(-math.inf, None))
        return None if score == -math.inf else step

    def restore(self, target: Tree, step: int | None = None) -> Tree:
        """Returns the whole state of a checkpoint.

        Args:
          target: arrays or `jax.ShapeDtypeStruct`s that give structure, shapes, types and shardings. A leaf
            without a sharding is restored to the first device.
          step: default: the latest sound one.

        Raises:
          FileNotFoundError: there is no such checkpoint.
          DamagedError: it is not what was saved.
          ValueError: names, shapes or types of leaves differ; the message names the first ones.
        """
        return self._read(step, target)

    def restore_segmenter(self, target: Tree, step: int | None = None, average: bool = False) -> Tree:
        """Returns the segmenter alone; discriminators and optimiser state are neither needed nor read.

        Args:
          target: `{"params": ..., "batch_stats": ...}` of the segmenter, with leaves as in `restore`.
          step: default: the latest sound one.
          average: the segmenter's moving average instead.

        Raises:
          FileNotFoundError, DamagedError, ValueError: as in `restore`, the last one also where there is no average.
        """
        if average:
            return self._read(step, {"average": target}, parts=_AVERAGE)["average"]
        wanted = {"params": {"segmenter": target["params"]}, "batch_stats": target["batch_stats"]}
        found = self._read(step, wanted, parts=("params/segmenter/", "batch_stats/"))
        return {"params": found["params"]["segmenter"], "batch_stats": found["batch_stats"]}

    def configuration(self, step: int | None = None) -> dict:
        """Returns the configuration saved with a step (default: the latest); FileNotFoundError without it."""
        items = ocp.args.Composite(configuration=ocp.args.JsonRestore())
        return self._manager.restore(self._find(step), args=items)["configuration"]

    def metrics(self, step: int | None = None) -> dict:
        """Returns the metrics saved with a step, as `configuration` does; what was not finite is None."""
        return self._manager.metrics(self._find(step))

    def check(self) -> None:
        """Raises SaveError if the last save has failed; does not wait for one that goes on."""
        with integrity.told_of_saving(self.directory):
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Waits until the last save is on disk; SaveError if it failed."""
        with integrity.told_of_saving(self.directory):
            self._manager.wait_until_finished()
        self._clear_deleted()

    def close(self) -> None:
        """Waits for the last save and ends the background threads; SaveError if it failed."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> None:
        if error is not None and jax.process_count() > 1:
            return  # The others, whom closing waits for, may not have this error.
        try:
            self.close()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"Moreover, the last save to {self.directory} failed: {failure!r}")

    @staticmethod
    def _score(metric: str, metrics: dict) -> float:
        """Ranks a checkpoint; NaN would compare with nothing and make the best one arbitrary."""
        value = metrics.get(metric)
        return float(value) if value is not None and math.isfinite(value) else -math.inf

    def _clear_deleted(self) -> None:
        deleted = self._manager.directory / _DELETED
        if not self._read_only and jax.process_index() == 0 and deleted.exists():
            deleted.rmtree()

    def _steps(self) -> list[int]:
        return sorted(step for step in self._manager.all_steps() if step not in self._damaged)

    def _damage_in(self, step: int) -> str | None:
        """Reads a whole checkpoint into host memory; returns in what it is not what was saved."""
        try:
            expected = integrity.read_checksums(self.directory, step)
            with integrity.told_of_reading():
                tree = self._manager.item_metadata(step)["state"].tree
                numpy = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype), tree)
                self._load(step, expected, ocp.args.PyTreeRestore(tree, restore_args=numpy))
        except DamagedError as error:
            return str(error)
        self._sound.add(step)
        return None

    def _load(self, step: int, expected: dict[str, str], state: ocp.args.PyTreeRestore) -> Any:
        with integrity.told_of_reading():
            found = self._manager.restore(step, args=ocp.args.Composite(state=state))["state"]
            if differing := leaves.differences(expected, leaves.checksums(found)):
                raise DamagedError(differing)
            return found

    def _set_aside(self, found: dict[int, str]) -> None:
        """Never uses these checkpoints; as their only writer, moves them out of the way of later saves."""
        integrity.tell(self.directory, found, move=not self._read_only)
        if self._read_only:
            self._damaged |= found
        elif found and self._manager:
            self._manager.reload()

    def _find(self, step: int | None) -> int:
        self.wait()
        if step is None and self._steps():
            return self.latest_sound_step()
        if step in self._damaged:
            raise DamagedError(f"Checkpoint {step} in {self.directory} is damaged: {self._damaged[step]}")
        if step not in self._steps():
            wanted = "checkpoint" if step is None else f"checkpoint of step {step}"
            there = str(self._steps())[1:-1] or "none"
            raise FileNotFoundError(f"No {wanted} in {self.directory}; steps there: {there}.")
        return step

    def _read(self, step: int | None, target: Tree, parts: tuple[str, ...] = ()) -> Tree:
        """Reads `target`: all that the checkpoint holds, or all under the paths that begin with one of `parts`."""
        step = self._find(step)
        try:
            there = integrity.read_checksums(self.directory, step)
            expected = {name: text for name, text in there.items() if not parts or name.startswith(parts)}
            if parts == _AVERAGE and not expected:
                raise ValueError(
                    f"Checkpoint {step} in {self.directory} has no moving average: teacher.decay is 0 there."
                )
            saved = {name: text.partition(" crc32")[0] for name, text in expected.items()}
            if differing := leaves.differences(leaves.describe(target), saved):
                raise ValueError(f"Checkpoint {step} in {self.directory} does not fit; {differing}")
            target = jax.tree.map(leaves.with_sharding, target)
            arguments = ocp.checkpoint_utils.construct_restore_args(target)
            state = ocp.args.PyTreeRestore(target, restore_args=arguments, partial_restore=bool(parts))
            return self._load(step, expected, state)
        except DamagedError as error:
            raise DamagedError(f"Checkpoint {step} in {self.directory} is damaged: {error}") from error


def _is_no_progress_message(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO or f"{os.sep}orbax{os.sep}" not in record.pathname
