"""Checkpoints of the training state: written in the background, the latest and the best ones kept.

A checkpoint is a folder named by its step, with four items: `state` (the arrays), `configuration`, `metrics` and the
`checksums` of all three (JSON). It gets its name only when it is complete. Before an old checkpoint is deleted, it
moves into `deleted/`, so that a crash never leaves half a checkpoint under a step's name. A checkpoint whose bytes
differ from what was saved moves into `damaged/`, where a user may examine it.
"""

import contextlib
import functools
import logging
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, Self, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from ass_jax.checkpoints import integrity
from ass_jax.checkpoints.integrity import DamagedError
from ass_jax.runtime import distributed
from ass_jax.runtime.workdir import DELETED
from configs.user_error import UserError

Tree = TypeVar("Tree")


class MisfitError(UserError):
    """A checkpoint is of another network."""


_AVERAGE = ("average/",)  # Path of the moving average's leaves.
# Without the metadata files that Orbax writes beside the arrays: only random keys need them, and they have no checksum.
_ARRAYS = ocp.type_handlers.create_type_handler_registry(
    (jax.Array, ocp.type_handlers.ArrayHandler(array_metadata_store=None)),
    (np.ndarray, ocp.type_handlers.NumpyHandler()),
)


class Checkpoints:
    """The checkpoints of one training run; a context manager that waits for the last save at its end.

    Every process of a run opens the same directory and makes the same calls. A save runs in the background. If it
    fails, `raise_failed_save` and the next method that waits for it (all but `latest_step`) raise SaveError.
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
          keep_latest: number of latest checkpoints to keep, beside the best one of each metric.
          best_metrics: metrics whose largest value marks a best checkpoint.
          read_only: makes and clears nothing, because a run may be at work there; lists the checkpoints once.

        Raises:
          UserError: `keep_latest` is below 1.
          DamagedError: there are checkpoints, and all of them are damaged.
        """
        if keep_latest < 1:
            raise UserError(f"Expected at least 1 latest checkpoint to keep, found {keep_latest}.")
        # Orbax logs each stage of a save as information; its warnings and errors stay.
        logging.getLogger("absl").addFilter(_is_no_progress_message)
        path = os.fspath(directory)
        self.directory = path if "://" in path else os.path.abspath(path)
        self._best_metrics = tuple(best_metrics)
        self._read_only = read_only
        self._intact, self._damaged = set(), {}
        self._manager: Any = None
        self._set_aside(integrity.find_damaged(self.directory))  # First: Orbax reads the metrics of all checkpoints.
        meet = distributed.unless_failing(ocp.multihost.get_barrier_sync_fn())
        rankings = [functools.partial(self._score, metric) for metric in self._best_metrics]
        best = [BestN(get_metric_fn=ranking, n=1, keep_checkpoints_without_metrics=False) for ranking in rankings]
        self._manager = ocp.CheckpointManager(
            self.directory,
            item_handlers={"state": ocp.PyTreeCheckpointHandler(type_handler_registry=_ARRAYS)}
            | {name: ocp.JsonCheckpointHandler() for name in ("configuration", "checksums")},
            options=ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy([LatestN(keep_latest), *best]),
                best_fn=rankings[0],  # Makes Orbax save metrics; `best_step` ranks by any of them.
                lightweight_initialize=read_only,  # Does not read the metrics of damaged checkpoints, which stay.
                todelete_subdir=DELETED,
                create=not read_only,
                cleanup_tmp_directories=not read_only,
                # If making a folder in the background fails, the process hangs for five minutes.
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False, barrier_sync_fn=meet),
            ),
        )
        self._clear_deleted()

    def save(self, step: int, state: Any, metrics: dict | None, configuration: dict) -> None:
        """Copies the state and starts writing it; its arrays may be donated as soon as this returns.

        Args:
          step: number of steps done; larger than that of every checkpoint in the directory.
          state: a tree of arrays.
          metrics: JSON-able; `best_metrics` rank the checkpoint, lowest if missing, None or not finite.
          configuration: JSON-able; JSON turns tuples into lists.

        Raises:
          ValueError: the step is not after the latest one, or the directory is open for reading only.
          TypeError: metrics or configuration are not JSON-able, or a ranking metric is not a number.
          SaveError: the save before this one failed.
        """
        if self._read_only:
            raise ValueError(f"Cannot save step {step}: {self.directory} is open for reading only.")
        metrics, configuration = integrity.plain_json(metrics or {}), integrity.plain_json(configuration)
        for metric in self._best_metrics:
            self._score(metric, metrics)  # Raises an error before anything is written.
        self.wait()
        latest = self.latest_step()
        if latest is not None and step <= latest:
            raise ValueError(f"Cannot save step {step}: {self.directory} already has step {latest}.")
        checksums = integrity.checksums(state=state, configuration=configuration, metrics=metrics)
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(state),
            configuration=ocp.args.JsonSave(configuration),
            checksums=ocp.args.JsonSave(checksums),
        )
        with integrity.saving(self.directory):
            self._manager.save(step, args=items, metrics=metrics, force=True)
        self._intact.add(step)

    def reached_preemption(self, step: int) -> bool:
        """Returns whether the processes, which must all call it, agree to stop after this step; False for one."""
        return jax.process_count() > 1 and self._manager.reached_preemption(step)

    def latest_step(self) -> int | None:
        """Returns the highest step, even while it is being written; None without checkpoints."""
        return max(self._steps(), default=None)

    def latest_intact_step(self) -> int | None:
        """Returns the highest step whose checkpoint is intact; None without checkpoints.

        From the highest step down, it reads each checkpoint that this process did not write, until one is intact.
        Damaged ones are named in a warning and, unless the directory is open for reading only, moved into `damaged/`.

        Raises:
          DamagedError: there are checkpoints, and all are damaged; none is moved.
        """
        self.wait()
        found = {}
        for step in reversed(self._steps()):
            reason = None if step in self._intact else self._damage_in(step)
            if not distributed.in_any(reason is not None):
                self._set_aside(found)
                return step
            found[step] = reason or "another process of the run cannot read it"
        if found:
            raise integrity.all_damaged_error(self.directory, found)
        return None

    def best_step(self, metric: str | None = None) -> int | None:
        """Returns the step with the largest value of a metric, the later of equal ones; None if none has a value.

        Args:
          metric: default: the first of `best_metrics`. The best checkpoint of any other metric may be deleted.
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
          step: default: the latest intact one.

        Raises:
          DamagedError: the checkpoint is damaged.
          UserError: there is no such checkpoint, or leaves differ in name, shape or type; the message lists the first.
        """
        return self._read(step, target)

    def restore_segmenter(
        self, target: dict, step: int | None = None, *, average: bool = False, source: bool = False
    ) -> dict:
        """Returns the segmenter alone, without reading discriminators and optimiser state.

        Args:
          target: `{"params": ..., "batch_stats": ...}` of the segmenter, with leaves as in `restore`.
          step: default: the latest intact one.
          average: restores the segmenter's moving average.
          source: restores the running statistics of the source's own, if the checkpoint has them.

        Raises:
          DamagedError: the checkpoint is damaged.
          UserError: as in `restore`, or the checkpoint has no moving average.
        """
        if average:
            return self._read(step, {"average": target}, parts=_AVERAGE)["average"]
        step = self._find(step)
        with self._naming(step):
            names = integrity.read_checksums(self.directory, step) if source else ()
        statistics = "source_stats" if any(name.startswith("source_stats/") for name in names) else "batch_stats"
        segmenter = {"params": {"segmenter": target["params"]}, statistics: target["batch_stats"]}
        found = self._read(step, segmenter, parts=("params/segmenter/", f"{statistics}/"))
        return {"params": found["params"]["segmenter"], "batch_stats": found[statistics]}

    def configuration(self, step: int | None = None) -> dict:
        """Returns the configuration saved with a step, by default the latest intact one.

        Raises:
          UserError: there is no such checkpoint.
        """
        items = ocp.args.Composite(configuration=ocp.args.JsonRestore())
        return self._manager.restore(self._find(step), args=items)["configuration"]

    def metrics(self, step: int | None = None) -> dict:
        """Returns the metrics saved with a step, by default the latest intact one; None stands for what was not finite.

        Raises:
          UserError: there is no such checkpoint.
        """
        return self._manager.metrics(self._find(step))

    def raise_failed_save(self) -> None:
        """Raises SaveError if the last save has failed, without waiting for it."""
        with integrity.saving(self.directory):
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Waits until the last save is on disk; raises SaveError if it failed."""
        with integrity.saving(self.directory):
            self._manager.wait_until_finished()
        self._clear_deleted()

    def close(self) -> None:
        """Waits for the last save and ends the background threads; raises SaveError if it failed."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> None:
        if error is not None and jax.process_count() > 1:
            return  # Closing waits for the other processes, which may not have this error.
        try:
            self.close()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"Moreover, the last save to {self.directory} failed: {failure!r}")

    @staticmethod
    def _score(metric: str, metrics: dict) -> float:
        """Returns the number that ranks a checkpoint: no NaN, which would make the best one arbitrary."""
        value = metrics.get(metric)
        return float(value) if value is not None and math.isfinite(value) else -math.inf

    def _clear_deleted(self) -> None:
        deleted = self._manager.directory / DELETED
        if not self._read_only and jax.process_index() == 0 and deleted.exists():
            deleted.rmtree()

    def _steps(self) -> list[int]:
        return sorted(step for step in self._manager.all_steps() if step not in self._damaged)

    def _damage_in(self, step: int) -> str | None:
        """Reads a whole checkpoint into host memory and returns what is damaged; None if it is intact."""
        try:
            expected = integrity.read_checksums(self.directory, step)
            with integrity.reading():
                tree = self._manager.item_metadata(step)["state"].tree
                numpy = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype), tree)
                self._load(step, expected, ocp.args.PyTreeRestore(tree, restore_args=numpy))
        except DamagedError as error:
            return str(error)
        self._intact.add(step)
        return None

    def _load(self, step: int, expected: dict[str, str], state: ocp.args.PyTreeRestore) -> Any:
        with integrity.reading():
            found = self._manager.restore(step, args=ocp.args.Composite(state=state))["state"]
            if differing := integrity.leaf_differences(expected, integrity.leaf_checksums(found)):
                raise DamagedError(differing)
            return found

    def _set_aside(self, found: dict[int, str]) -> None:
        """Excludes damaged checkpoints; unless read-only, moves them out of the way of later saves."""
        integrity.report_damaged(self.directory, found, move=not self._read_only)
        if self._read_only:
            self._damaged |= found
        elif found and self._manager:
            self._manager.reload()

    def _find(self, step: int | None) -> int:
        self.wait()
        if step is None and self._steps() and (latest := self.latest_intact_step()) is not None:
            return latest
        if step in self._damaged:
            raise DamagedError(f"Checkpoint {step} in {self.directory} is damaged: {self._damaged[step]}")
        if step not in self._steps():
            name = "checkpoint" if step is None else f"checkpoint of step {step}"
            there = str(self._steps())[1:-1] or "none"
            raise UserError(f"No {name} in {self.directory}; steps there: {there}.")
        return step

    def _read(self, step: int | None, target: Tree, parts: tuple[str, ...] = ()) -> Tree:
        """Reads `target`: the whole checkpoint, or the leaves whose paths begin with one of `parts`."""
        step = self._find(step)
        with self._naming(step):
            saved = integrity.read_checksums(self.directory, step)
            expected = {name: text for name, text in saved.items() if not parts or name.startswith(parts)}
            if parts == _AVERAGE and not expected:
                raise UserError(
                    f"Checkpoint {step} in {self.directory} has no moving average: teacher.decay is 0 there."
                )
            types = {name: text.partition(" crc32")[0] for name, text in expected.items()}
            if differing := integrity.leaf_differences(integrity.leaf_types(target), types):
                raise MisfitError(
                    f"Checkpoint {step} in {self.directory} does not fit the model of this configuration. Use "
                    f"config.model and config.data.classes of the run; {differing}"
                )
            target = jax.tree.map(_with_sharding, target)
            arguments = ocp.checkpoint_utils.construct_restore_args(target)
            state = ocp.args.PyTreeRestore(target, restore_args=arguments, partial_restore=bool(parts))
            return self._load(step, expected, state)

    @contextlib.contextmanager
    def _naming(self, step: int) -> Iterator[None]:
        """Adds to a report of damage which checkpoint it is."""
        try:
            yield
        except DamagedError as error:
            raise DamagedError(f"Checkpoint {step} in {self.directory} is damaged: {error}") from error


def _with_sharding(leaf: Any) -> jax.ShapeDtypeStruct:
    """Returns shape, type and sharding of a leaf; without a sharding, it goes to the first device."""
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _is_no_progress_message(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO or f"{os.sep}orbax{os.sep}" not in record.pathname
