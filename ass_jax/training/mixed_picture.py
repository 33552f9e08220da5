"""A picture of what ASS+ trains on: unlabelled images before and after mixing, and the labels of the result."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ass_jax import visualization
from ass_jax.method.state import TrainState
from ass_jax.method.train_step import add_mixed
from ass_jax.models import Networks
from ass_jax.runtime import compilation
from ass_jax.runtime.sharding import replicated

FILE = "mixed.png"

Show = Callable[[int, TrainState, dict], None]


def make_show(
    networks: Networks, config: ConfigDict, mesh: Mesh, *, class_table: Any, writer: Any, workdir: Path
) -> Show:
    """Returns a function that shows the mixed images of a step in `mixed.png` and in TensorBoard.

    Args:
      networks: the segmenter is used.
      config: the whole configuration.
      mesh: of the devices that hold state and batch.
      class_table: `names` and `palette` `[C, 3]` of the classes.
      writer: a `clu.metric_writers.MetricWriter`.
      workdir: where process 0 writes the picture.

    Returns:
      Called, by every process, with the number of steps done, the state and the batch that the next step would take.
      It shows the first `config.evaluation.pictures` images; none where nothing is mixed.
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
        picture = draw(*jax.device_get(make(state, batch)), class_table)
        writer.write_images(number, {"mixed": picture[None]})
        if jax.process_index() > 0:
            return
        try:
            visualization.save_picture(workdir / FILE, picture)
        except OSError as error:  # No picture is worth a run; the checkpoint, which comes next, tells of a full disk.
            logging.warning("%s could not be written: %s", workdir / FILE, error)

    return show


def draw(unlabelled: dict[str, np.ndarray], mixed: dict[str, np.ndarray], table: Any) -> np.ndarray:
    """Lays out unlabelled images, what the teacher labels there, and what is mixed from both; one image a row.

    Args:
      unlabelled: `image` uint8 `[N, H, W, 3]` and `pseudo_label`, integers `[N, H, W]`, 255 where not sure.
      mixed: `image` of 0..255, float `[N, H, W, 3]`, `label`, integers `[N, H, W]`, 255 for ignored pixels, and
        `weight` of the pixels' losses, float `[N, H, W]` of 0..1; shown in grey, 1 in white.
      table: `names` and `palette` `[C, 3]` of the classes.

    Returns:
      uint8 RGB `[height, width, 3]`.
    """
    grey = np.rint(255 * mixed["weight"]).astype(np.uint8)
    columns = {
        "unlabelled": unlabelled["image"],
        "sure labels": visualization.colourise(unlabelled["pseudo_label"], table.palette),
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
