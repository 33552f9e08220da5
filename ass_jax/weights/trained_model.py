"""A trained segmenter with everything it needs: settings, class names, colours and weights."""

import dataclasses
import json
import os
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from ass_jax.checkpoints.manager import Checkpoints
from ass_jax.class_table import ClassTable
from ass_jax.method.losses import DOMAIN_LOSSES
from ass_jax.method.state import Variables, abstract_segmenter
from ass_jax.models import Networks, build_networks
from ass_jax.models.deeplab import BACKBONES
from ass_jax.runtime.workdir import CHECKPOINTS, CLASSES, CONFIGURATION, parse_json, read_json, write_json
from ass_jax.weights.files import WeightFileError
from ass_jax.weights.model_settings import expect_valid
from ass_jax.weights.pretrained import Pretrained, place, set_by
from configs.user_error import UserError

# Keys of a configuration that a trained segmenter needs, with the types of their values.
_SETTINGS = {
    "checkpoint.keep": int,
    "data.target_size": list,
    "discriminator.global_width": int,
    "discriminator.semantic_width": int,
    "loss.global_kind": str,
    "loss.global_weight": float,
    "loss.semantic_input": str,
    "loss.semantic_outputs": str,
    "loss.semantic_weight": float,
    "model.backbone": str,
    "model.batch_norm": str,
    "model.branches": int,
    "model.dtype": str,
    "model.pixel_deviation": list,
    "model.pixel_mean": list,
    "model.pixel_order": str,
    "model.stride_in": str,
}
# Their choices, which the networks trust: a file of weights may hold anything.
_CHOICES = {
    "loss.global_kind": tuple(DOMAIN_LOSSES),
    "loss.semantic_input": ("features", "logits"),
    "loss.semantic_outputs": ("binary", "class_domain"),
    "model.backbone": tuple(BACKBONES),
    "model.batch_norm": ("batch", "frozen"),
    "model.dtype": ("float32", "bfloat16"),
    "model.head": ("atrous", "linear", "multilevel"),  # Older files do not have it, nor the next one.
    "model.output_stride": (8, 16),
}
_CLASS_TABLE = {"names": list, "palette": list}


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
        """The modules of the configuration; `variables` are those of the segmenter."""
        return build_networks(self.config, len(self.names))


def write_description(workdir: Path, config: ConfigDict, class_table: ClassTable) -> None:
    """Writes the configuration and the classes of a run, from which `open_run` builds its model.

    Raises:
      UserError: they cannot be written.
    """
    write_json(workdir / CONFIGURATION, json.loads(config.to_json()))
    classes = {"names": list(class_table.names), "palette": np.asarray(class_table.palette).tolist()}
    write_json(workdir / CLASSES, classes)


def open_run(workdir: str | os.PathLike, step: int | None = None, average: bool = False) -> Trained:
    """Reads the segmenter of a training run.

    Args:
      workdir: of the run.
      step: of its checkpoint; default: the latest intact one.
      average: reads the moving average of the weights.

    Raises:
      UserError: the folder is not a working directory, or there is no such checkpoint, or it does not fit the
        configuration, or a file is damaged.
    """
    workdir = Path(workdir)
    for name in (CONFIGURATION, CLASSES, CHECKPOINTS):
        if not (workdir / name).exists():
            raise UserError(f"{workdir} has no {name}: it is not the working directory of a training run.")
    config = _config(read_json(workdir / CONFIGURATION, _SETTINGS), workdir / CONFIGURATION)
    names, palette = _classes(read_json(workdir / CLASSES, _CLASS_TABLE), workdir / CLASSES)
    with Checkpoints(workdir / CHECKPOINTS, config.checkpoint.keep, read_only=True) as checkpoints:
        shapes = abstract_segmenter(build_networks(config, len(names)), config)
        variables = checkpoints.restore_segmenter(shapes, step, average=average)
    return Trained(config, names, palette, jax.tree.map(np.asarray, variables))


def open_foreign(pretrained: Pretrained, config: ConfigDict, class_table: ClassTable) -> Trained:
    """Builds the segmenter of a weight file of another project; the file must have a classifier.

    Args:
      pretrained: of `ass_jax.weights.pretrained.open_weights`.
      config: the whole configuration; the file overrides the settings that belong to its weights, but for
        `config.init_keeps`.
      class_table: `names` and `palette`.

    Raises:
      WeightFileError: the file does not fit the model, has no classifier for this number of classes, or does not say
        how many branches of it act.
    """
    config = set_by(pretrained, config, len(class_table.names))
    return _fill(pretrained, config, tuple(class_table.names), np.asarray(class_table.palette))


def description(trained: Trained) -> dict[str, str]:
    """Returns the metadata that describe a model in a weight file; `open_description` reads them."""
    classes = {"names": list(trained.names), "palette": trained.palette.tolist()}
    return {"configuration": trained.config.to_json(), "classes": json.dumps(classes)}


def open_description(pretrained: Pretrained) -> Trained | None:
    """Returns the segmenter of a file with a description of its model, as exports have it; None without one.

    Raises:
      UserError: the description is damaged, or the arrays do not fit it.
    """
    metadata = pretrained.metadata
    if not metadata.keys() >= {"configuration", "classes"}:
        return None
    place = f"configuration in {pretrained.path}"
    config = _config(parse_json(metadata["configuration"], place, _SETTINGS), place)
    place = f"classes in {pretrained.path}"
    names, palette = _classes(parse_json(metadata["classes"], place, _CLASS_TABLE), place)
    return _fill(pretrained, config, names, palette)


def _fill(pretrained: Pretrained, config: ConfigDict, names: tuple[str, ...], palette: np.ndarray) -> Trained:
    variables, placement = place(pretrained, abstract_segmenter(build_networks(config, len(names)), config))
    if placement.random:
        raise WeightFileError(
            f"{pretrained.path} cannot label images: it lacks {', '.join(placement.random[:3])} for "
            f"{len(names)} classes. Train from it with --config.init={pretrained.path} first."
        )
    return Trained(config, names, palette, variables)


def _config(found: dict, place: object) -> ConfigDict:
    try:
        config = ConfigDict(found)
    except (AttributeError, TypeError, ValueError) as error:  # Keys with dots, or with the names of its methods.
        raise UserError(f"{place}: it has keys that no configuration has ({error}).") from error
    for key, choices in _CHOICES.items():
        group, name = key.split(".")
        value = config[group].get(name, choices[0])
        if value not in choices:
            expected = ", ".join(map(str, choices))
            raise UserError(f"{place}: {key} is {value!r}; expected one of {expected}.")
    expect_valid(found["model"], place)
    return config


def _classes(found: dict, place: object) -> tuple[tuple[str, ...], np.ndarray]:
    names, colours = found["names"], found["palette"]
    levels = [level for colour in colours if isinstance(colour, list) and len(colour) == 3 for level in colour]
    sound = len(levels) == 3 * len(colours) and all(isinstance(level, int) and 0 <= level <= 255 for level in levels)
    if not sound or len(colours) != len(names) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{place}: expected names of classes, each with a colour of three numbers from 0 to 255.")
    return tuple(names), np.array(colours, np.uint8)
