"""A picture of the mixed images of ASS+: unlabelled images before and after mixing, with their labels."""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ass_jax import visualization
from ass_jax.class_table import ClassTable
from ass_jax.method.state import TrainState
from ass_jax.method.train_step import add_mixed
from ass_jax.models import Networks
from ass_jax.runtime import compilation
from ass_jax.runtime.sharding import replicated
from ass_jax.runtime.workdir import MIXED_PICTURE
from ass_jax.training.metric_writer import MetricWriter

Show = Callable[[int, TrainState, dict], None]


def make_show(
    networks: Networks, config: ConfigDict, mesh: Mesh, *, class_table: ClassTable, writer: MetricWriter, workdir: Path
) -> Show:
    """Returns a function that writes a picture of the mixed images of a step to `mixed.png` and to TensorBoard.

    Args:
      networks: of which the segmenter is used.
      config: the whole configuration.
      mesh: of the devices that hold state and batch.
      class_table: `names` and `palette` `[C, 3]` of the classes.
      writer: of the metrics.
      workdir: folder of `mixed.png`, which process 0 writes.

    Returns:
      A function of the number of steps done, the state and the batch of the next step; every process must call it. It
      shows the first `config.evaluation.pictures` images, and does nothing for variants without mixing.
    """
    count = config.evaluation.pictures
    if not config.teacher.mixed_weight or not count:
        return lambda number, state, batch: None
    once = compilation.options_of_one_use()
    make = jax.jit(
        functools.partial(_examples, networks=networks, config=config, count=count),
        out_shardings=replicated(mesh),
        compiler_options=once,
    )

    def show(number: int, state: TrainState, batch: dict) -> None:
        unlabelled, mixed = jax.device_get(make(state, batch))
        picture = draw(unlabelled, mixed, class_table)
        writer.write_picture(number, "mixed", picture)
        if jax.process_index() > 0:
            return
        try:
            visualization.save_picture(workdir / MIXED_PICTURE, picture)
        except OSError as error:  # Training goes on without a picture; on a full disk, the next checkpoint ends it.
            logging.warning("%s could not be written: %s", workdir / MIXED_PICTURE, error)

    return show


def draw(unlabelled: dict[str, np.ndarray], mixed: dict[str, np.ndarray], table: ClassTable) -> np.ndarray:
    """Lays out unlabelled images, the teacher's confident labels, and the mixed images with theirs; a row an image.

    Args:
      unlabelled: `image` uint8 `[N, H, W, 3]` and `pseudo_label`, integers `[N, H, W]`, 255 where not confident.
      mixed: `image`, float `[N, H, W, 3]` in 0..255; `label`, integers `[N, H, W]`, 255 for ignored pixels; and
        `weight` of the pixels in the loss, float `[N, H, W]` in 0..1, drawn from black to white.
      table: `names` and `palette` `[C, 3]` of the classes.

    Returns:
      uint8 RGB `[height, width, 3]`.
    """
    grey = np.rint(255 * mixed["weight"]).astype(np.uint8)
    columns = {
        "unlabelled": unlabelled["image"],
        "confident labels": visualization.colourise(unlabelled["pseudo_label"], table.palette),
        "mixed": np.rint(mixed["image"]).astype(np.uint8),
        "mixed labels": visualization.colourise(mixed["label"], table.palette),
        "weight": np.repeat(grey[..., None], 3, axis=-1),
    }
    return visualization.table(columns, table.palette, table.names)


def _examples(
    state: TrainState, batch: dict, *, networks: Networks, config: ConfigDict, count: int
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    streams, _ = add_mixed(state, batch, networks, config)
    return jax.tree.map(lambda array: array[:count], (streams["unlabelled"], streams["mixed"]))
