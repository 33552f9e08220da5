"""A trained segmenter with all that using it takes: settings, class names, colours and weights."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ass_jax.checkpoint import Checkpoints
from ass_jax.models import Networks, build_networks
from ass_jax.pretrained import Pretrained, place, with_settings
from ass_jax.state import Variables, abstract_segmenter
from ass_jax.weight_files import WeightFileError

CHECKPOINTS = "checkpoints"  # Folders and files of a working directory.
CONFIGURATION = "config.json"
CLASSES = "classes.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained segmenter.

    Attributes:
      config: the whole configuration of its training.
      names: of the C classes.
      palette: uint8 [C, 3].
      variables: float32 arrays.
    """

    config: ConfigDict
    names: tuple[str, ...]
    palette: np.ndarray
    variables: Variables

    @property
    def networks(self) -> Networks:
        """The modules; the variables belong to the segmenter."""
        return build_networks(self.config, len(self.names))


def write_description(workdir: Path, config: ConfigDict, class_table: Any) -> None:
    """Writes the files of a working directory from which `open_run` knows its model."""
    (workdir / CONFIGURATION).write_text(config.to_json(indent=2) + "\n")
    classes = {"names": list(class_table.names), "palette": np.asarray(class_table.palette).tolist()}
    (workdir / CLASSES).write_text(json.dumps(classes, indent=2) + "\n")


def open_run(workdir: str | os.PathLike, step: int | None = None, average: bool = False) -> Trained:
    """Reads the segmenter of a training run.

    Args:
      workdir: of the run.
      step: of its checkpoint; default: the latest one.
      average: the moving average of the weights instead.

    Raises:
      FileNotFoundError: the folder is not that of a run, or there is no such checkpoint.
      ValueError: the checkpoint is of another model than the configuration.
    """
    workdir = Path(workdir)
    for name in (CONFIGURATION, CLASSES, CHECKPOINTS):
        if not (workdir / name).exists():
            raise FileNotFoundError(f"{workdir} has no {name}: it is not the working directory of a training run.")
    config = ConfigDict(json.loads((workdir / CONFIGURATION).read_text()))
    names, palette = _classes(json.loads((workdir / CLASSES).read_text()))
    with Checkpoints(workdir / CHECKPOINTS, config.checkpoint.keep, read_only=True) as checkpoints:
        shapes = abstract_segmenter(build_networks(config, len(names)), config)
        variables = checkpoints.restore_segmenter(shapes, step, average=average)
    return Trained(config, names, palette, jax.tree.map(np.asarray, variables))


def open_foreign(pretrained: Pretrained, config: ConfigDict, class_table: Any) -> Trained:
    """Builds the segmenter of a weight file; its classifier has to be there.

    Args:
      pretrained: of `ass_jax.pretrained.open_weights`.
      config: the whole configuration; the settings that belong to the weights are taken from the file.
      class_table: `names` and `palette`.

    Raises:
      WeightFileError: the file does not fit the model, or has no classifier for as many classes.
    """
    config = with_settings(config, pretrained.settings_for(len(class_table.names)))
    return _fill(pretrained, config, tuple(class_table.names), np.asarray(class_table.palette))


def description(trained: Trained) -> dict[str, str]:
    """Returns what a weight file says of its model beside the arrays: `open_description` reads it."""
    classes = {"names": list(trained.names), "palette": trained.palette.tolist()}
    return {"configuration": trained.config.to_json(), "classes": json.dumps(classes)}


def open_description(pretrained: Pretrained) -> Trained | None:
    """Returns the segmenter of a file that describes its own model, as `ass_jax.export` writes it; else None.

    Raises:
      WeightFileError: the arrays do not fit the description.
    """
    metadata = pretrained.metadata
    if not metadata.keys() >= {"configuration", "classes"}:
        return None
    config = ConfigDict(json.loads(metadata["configuration"]))
    names, palette = _classes(json.loads(metadata["classes"]))
    return _fill(pretrained, config, names, palette)


def _fill(pretrained: Pretrained, config: ConfigDict, names: tuple[str, ...], palette: np.ndarray) -> Trained:
    variables, placement = place(pretrained, abstract_segmenter(build_networks(config, len(names)), config))
    if placement.random:
        raise WeightFileError(
            f"{pretrained.path} cannot label images: it lacks {', '.join(placement.random[:3])} for "
            f"{len(names)} classes. Train from it with --config.init={pretrained.path} first."
        )
    return Trained(config, names, palette, variables)


def _classes(found: Mapping) -> tuple[tuple[str, ...], np.ndarray]:
    return tuple(found["names"]), np.array(found["palette"], np.uint8)
