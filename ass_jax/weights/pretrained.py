"""Initial weights from other projects: checked, renamed and told about.

    python -m ass_jax.weights.pretrained resnet101.pth --output=resnet101.safetensors

lists what the file holds for a backbone and, with `--output`, writes it in our names: a file that needs no
PyTorch to be read. `--config.init=FILE` starts a run from either.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ass_jax.method.state import Variables
from ass_jax.models.deeplab import BACKBONES, build_deeplab
from ass_jax.runtime.workdir import parse_json
from ass_jax.weights.files import WeightFileError, read_arrays, write_arrays
from ass_jax.weights.names import Source, find_source, without_prefix

# Keys of `config.model` that belong to weights.
SETTINGS = ("pixel_order", "pixel_mean", "pixel_deviation", "stride_in", "branches")
_NAMED = 5  # Names in a message; the rest is counted.
_SETTINGS = "model"  # Key of the metadata of our own files.
_CLASSIFIER = "params/classifier/"
# Parameters that a file may lack: those that every task learns anew.
_MAY_BE_MISSING = (_CLASSIFIER, "params/backbone/head_conv")


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """The arrays of a weight file, ready to be placed.

    Attributes:
      path: of the file.
      source: where its weights come from.
      arrays: by foreign name, prefixes removed.
      settings: of `config.model`, which the weights expect.
      metadata: of the file.
    """

    path: str
    source: Source
    arrays: Mapping[str, np.ndarray]
    settings: Mapping[str, object]
    metadata: Mapping[str, str]

    @property
    def num_classes(self) -> int | None:
        """Classes of the file's classifier; None if it has none."""
        name = self.source.name(f"{_CLASSIFIER}dilation6/bias")
        return self.arrays[name].size if name in self.arrays else None

    def settings_for(self, num_classes: int) -> dict[str, object]:
        """Returns the settings of `config.model` that the weights need in a model of `num_classes` classes."""
        settings = dict(self.settings)
        # How many branches act belongs to the trained classifier, which another number of classes leaves out.
        if self.num_classes != num_classes:
            settings.pop("branches", None)
        return settings


@dataclasses.dataclass(frozen=True)
class Placement:
    """What became of the arrays of a file.

    Attributes:
      loaded: our paths that took their values from the file.
      random: our paths that stay as they were.
      skipped: foreign names that are not used, each with the reason.
    """

    loaded: tuple[str, ...]
    random: tuple[str, ...]
    skipped: Mapping[str, str]


def open_weights(path: str | os.PathLike) -> Pretrained:
    """Reads a weight file and finds out where it comes from.

    Args:
      path: see `ass_jax.weights.files.read_arrays`.

    Raises:
      WeightFileError: the file cannot be read, or is of no known source.
    """
    found, metadata = read_arrays(path)
    arrays = {without_prefix(name): array for name, array in found.items()}
    if len(arrays) < len(found):
        raise WeightFileError(f"{path}: expected one model, found the same names with and without a prefix.")
    source = find_source(arrays)
    if source is None:
        raise WeightFileError(
            f"{path}: unknown names, such as {_some(list(arrays))}. Known are torchvision's ResNet and VGG-16, "
            "AdaptSegNet's DeepLab and our own exports."
        )
    settings = source.settings
    if source.layout == "ours" and _SETTINGS in metadata:
        try:
            found = parse_json(metadata[_SETTINGS], f"settings in {path}", {})
        except ValueError as error:
            raise WeightFileError(str(error)) from error
        settings = {key: _tupled(value) for key, value in found.items()}
    return Pretrained(os.fspath(path), source, arrays, settings, metadata)


def place(pretrained: Pretrained, variables: Variables) -> tuple[Variables, Placement]:
    """Puts the arrays of a file where they belong in the segmenter's variables.

    A classifier for another number of classes is skipped as a whole; everything else has to fit exactly.

    Args:
      pretrained: of `open_weights`.
      variables: of the segmenter: arrays, or their shapes alone.

    Returns:
      The variables with float32 numpy arrays where the file has them, and what became of every array.

    Raises:
      WeightFileError: a parameter is missing in the file, or its shape or type is wrong; the message names the
        first ones.
    """
    paths, leaves = zip(*flatten(variables), strict=True)
    names = {path: pretrained.source.name(path) for path in paths}
    skipped = _skip_classifier(pretrained, dict(zip(paths, leaves, strict=True)), names)
    missing = [names[path] or path for path in paths if names[path] not in pretrained.arrays and _is_needed(path)]
    if missing:
        raise WeightFileError(
            f"{pretrained.path} ({pretrained.source.title}) lacks {len(missing)} of {len(paths)} parameters of this "
            f"model: {_some(missing)}. Does model.backbone fit the file?"
        )
    placed, loaded = [], []
    for path, leaf in zip(paths, leaves, strict=True):
        name = names[path]
        if name in pretrained.arrays and name not in skipped:
            leaf = _converted(pretrained, name, path, leaf.shape)
            loaded.append(path)
        placed.append(leaf)
    used = {names[path] for path in loaded}
    for name in pretrained.arrays.keys() - used - skipped.keys():
        skipped[name] = "counters of batches" if name.endswith(".num_batches_tracked") else "no part of this model"
    variables = jax.tree.unflatten(jax.tree.structure(variables), placed)
    random = tuple(path for path in paths if path not in set(loaded))
    return variables, Placement(tuple(loaded), random, dict(sorted(skipped.items())))


def with_settings(config: ConfigDict, model_settings: Mapping[str, object]) -> ConfigDict:
    """Returns a copy of a configuration in which those settings of `config.model` that belong to weights are as given.

    Args:
      config: the whole configuration.
      model_settings: of `Pretrained.settings_for`, or `model` of the configuration that a checkpoint holds.
    """
    config = config.copy_and_resolve_references()
    for key in SETTINGS:
        if key in model_settings:
            config.model[key] = _tupled(model_settings[key])
    return config


def describe(pretrained: Pretrained, placement: Placement) -> str:
    """Returns a few lines that say what was loaded, skipped and left at random."""
    lines = [f"{pretrained.path}: {pretrained.source.title}; {len(placement.loaded)} arrays loaded."]
    if placement.random:
        lines.append(f"  Random as before: {_some(placement.random)}.")
    by_reason = {}
    for name, reason in placement.skipped.items():
        by_reason.setdefault(reason, []).append(name)
    lines += [f"  Skipped, {reason}: {_some(names)}." for reason, names in by_reason.items()]
    if pretrained.settings:
        settings = [f"model.{key}={value}" for key, value in pretrained.settings.items()]
        lines.append(f"  Expect {', '.join(settings)}.")
    return "\n".join(lines)


def from_foreign(path: str, array: np.ndarray) -> np.ndarray:
    """Returns PyTorch's array in our layout: kernels [out, in, height, width] to [height, width, in, out]."""
    return array.transpose(2, 3, 1, 0) if path.endswith("/kernel") else array


def to_foreign(path: str, array: np.ndarray) -> np.ndarray:
    """Returns our array in PyTorch's layout, the inverse of `from_foreign`."""
    return array.transpose(3, 2, 0, 1) if path.endswith("/kernel") else array


def flat_variables(variables: Variables) -> dict[str, np.ndarray]:
    """Returns the segmenter's variables by path, such as "params/backbone/stem/kernel"."""
    return {path: np.asarray(leaf) for path, leaf in flatten(variables)}


def settings_metadata(model_settings: Mapping[str, object]) -> dict[str, str]:
    """Returns the metadata of a file of ours, from which `open_weights` takes its settings."""
    return {_SETTINGS: json.dumps(dict(model_settings))}


def flatten(variables: Variables) -> list[tuple[str, jax.Array]]:
    """Returns every leaf with its path, such as "params/backbone/stem/kernel"."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def _skip_classifier(pretrained: Pretrained, leaves: Mapping, names: Mapping[str, str | None]) -> dict[str, str]:
    """Returns the file's classifier arrays, with the reason, if they are for another number of classes."""
    paths = [path for path in leaves if path.startswith(_CLASSIFIER) and names[path] in pretrained.arrays]
    found = {path: _in_our_layout(pretrained, names[path], path).shape for path in paths}
    classes = {shape[-1] for shape in found.values() if shape}
    ours = {leaves[path].shape[-1] for path in paths}
    if classes == ours or len(classes) != 1:
        return {}
    if any(found[path][:-1] != leaves[path].shape[:-1] for path in paths):
        return {}  # Another network altogether, which `_converted` refuses.
    reason = f"a classifier for {classes.pop()} classes where {ours.pop()} are wanted"
    return {names[path]: reason for path in paths}


def _in_our_layout(pretrained: Pretrained, name: str, path: str) -> np.ndarray:
    array = pretrained.arrays[name]
    if pretrained.source.layout == "ours" or (path.endswith("/kernel") and array.ndim != 4):
        return array  # Of another number of dimensions it fits nowhere, as `_converted` says.
    return from_foreign(path, array)


def _converted(pretrained: Pretrained, name: str, path: str, shape: tuple[int, ...]) -> np.ndarray:
    array = _in_our_layout(pretrained, name, path)
    if not jnp.issubdtype(array.dtype, np.floating):  # JAX's knows bfloat16.
        raise WeightFileError(f"{pretrained.path}: expected floating-point numbers in {name}, found {array.dtype}.")
    if array.shape != tuple(shape):
        raise WeightFileError(
            f"{pretrained.path}: expected shape {tuple(shape)} for {path}, found {array.shape} in {name}. "
            "Does model.backbone fit the file?"
        )
    return np.ascontiguousarray(array, np.float32)


def _is_needed(path: str) -> bool:
    return not path.startswith(_MAY_BE_MISSING)


def _some(names: list[str] | tuple[str, ...]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _tupled(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _model_for(pretrained: Pretrained, backbone: str | None) -> tuple[str, Variables]:
    """Returns a backbone, by default the one whose parameters the file has, and its segmenter's shapes."""
    shapes = {name: _shapes(name, pretrained.num_classes or 1) for name in ([backbone] if backbone else BACKBONES)}

    def fit(name: str) -> int:
        names = [pretrained.source.name(path) for path, _ in flatten(shapes[name])]
        return sum(1 if name in pretrained.arrays else -1 for name in names)

    best = max(shapes, key=fit)
    return best, shapes[best]


def _shapes(backbone: str, num_classes: int) -> Variables:
    settings = {"backbone": backbone, "stride_in": "1x1", "batch_norm": "batch", "dtype": "float32", "branches": 4}
    model = build_deeplab(ConfigDict(settings), num_classes)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    return jax.eval_shape(lambda images: model.init(jax.random.key(0), images, train=False), images)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ass_jax.weights.pretrained", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("file", help="torchvision's ResNet or VGG-16, AdaptSegNet's DeepLab, or an export of ours")
    parser.add_argument("--output", help="file to write: NAME.safetensors, read without PyTorch by --config.init")
    parser.add_argument("--backbone", choices=list(BACKBONES), help="of the model; default: the one that fits best")
    options = parser.parse_args(arguments)
    try:
        pretrained = open_weights(options.file)
        backbone, variables = _model_for(pretrained, options.backbone)
        variables, placement = place(pretrained, variables)
        print(f"{describe(pretrained, placement)}\n  Backbone: {backbone}.")
        if options.output:
            arrays = dict(flatten(variables))
            write_arrays(
                options.output,
                {path: arrays[path] for path in placement.loaded},
                settings_metadata(pretrained.settings),
            )
            print(f"Written: {options.output}; use it with --config.init={options.output}.")
    except (WeightFileError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
