"""Initial weights from other projects.

    python -m ass_jax.weights.pretrained resnet101.pth --output=resnet101.safetensors

lists the weights in the file that a backbone uses and, with `--output`, writes them with our names to another file.
`--config.init=FILE` starts a run from either file.
"""

import argparse
import dataclasses
import os
import re
import sys
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ass_jax.method.state import Variables
from ass_jax.models.deeplab import BACKBONES, DILATIONS, build_deeplab
from ass_jax.runtime.console import format_some, print_user_error, say
from ass_jax.weights import model_settings, packages
from ass_jax.weights.files import WeightFileError, read_arrays, write_arrays
from ass_jax.weights.names import Source, find_source, join_classifiers, without_prefix
from configs.user_error import UserError

_CLASSIFIER = "params/classifier/"
_WHOLE_CLASSIFIER = (_CLASSIFIER, "batch_stats/classifier/")
# Parameters that a file may lack, because every task learns them anew.
_MAY_BE_MISSING = (*_WHOLE_CLASSIFIER, "params/backbone/head_conv")
_OUTPUTS = re.compile(_CLASSIFIER + r"(dilation\d+|logits)/")  # The layers of a classifier that return logits.
_OPEN_BRANCHES = (
    "2 for weights of AdaptSegNet, whose code stops after the second of four; "
    "4 for those of ADVENT and for .pth exports of this project"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """The arrays of a weight file.

    Attributes:
      path: of the file.
      source: the project that the weights come from.
      arrays: by their name in the file, without prefixes.
      settings: values in `config.model` that the weights expect.
      metadata: of the file.
    """

    path: str
    source: Source
    arrays: Mapping[str, np.ndarray]
    settings: Mapping[str, object]
    metadata: Mapping[str, str]

    @property
    def num_classes(self) -> int | None:
        """Number of classes of the file's classifier; None if it has none."""
        names = (self.source.name(f"{_CLASSIFIER}{layer}/bias") for layer in ("dilation6", "logits"))
        return next((self.arrays[name].size for name in names if name is not None and name in self.arrays), None)

    def settings_for(self, num_classes: int) -> dict[str, object]:
        """Returns the values in `config.model` that the weights expect of a model with `num_classes` classes."""
        settings = dict(self.settings)
        # The number of branches belongs to the trained classifier, which is not used for another number of classes.
        if self.num_classes != num_classes:
            settings.pop("branches", None)
        return settings

    def leaves_branches_open(self, num_classes: int) -> bool:
        """Returns whether the file does not say how many branches of its classifier act, which the model would use."""
        return self.source.branches_open and self.num_classes == num_classes


@dataclasses.dataclass(frozen=True)
class Placement:
    """Which arrays of a file are used.

    Attributes:
      loaded: paths of our variables that have their values from the file.
      random: paths of our variables that keep their values.
      skipped: names in the file that are not used, each with the reason.
    """

    loaded: tuple[str, ...]
    random: tuple[str, ...]
    skipped: Mapping[str, str]


def open_weights(path: str | os.PathLike) -> Pretrained:
    """Reads a weight file and recognises its source.

    Args:
      path: one of `ass_jax.weights.packages.PACKAGES`, or a file: see `ass_jax.weights.files.read_arrays`.

    Raises:
      UserError: the file cannot be read, its source is unknown, or the package is not installed.
    """
    if path in packages.PACKAGES:
        path = packages.find(str(path))
    named, metadata = read_arrays(path)
    arrays = {without_prefix(name): array for name, array in named.items()}
    if len(arrays) < len(named):
        raise WeightFileError(f"{path}: expected one model, found the same names with and without a prefix.")
    arrays = join_classifiers(arrays)
    source = find_source(arrays)
    if source is None:
        raise WeightFileError(
            f"{path}: unknown names, such as {format_some(list(arrays))}. Known are torchvision's ResNet and VGG-16, "
            "DeepLab of AdaptSegNet, ADVENT and CLAN, EfficientNet-Lite0, HED's VGG-16, DINOv2 and our own exports."
        )
    settings = source.settings
    if source.layout == "ours":
        settings = model_settings.from_metadata(metadata, f"settings in {path}") or settings
    return Pretrained(os.fspath(path), source, arrays, settings, metadata)


def place(pretrained: Pretrained, variables: Variables) -> tuple[Variables, Placement]:
    """Puts the arrays of a file into the segmenter's variables.

    The layers that return logits for another number of classes are skipped, which are a whole classifier of DeepLab but
    only the last layer of the other heads; everything else must fit exactly.

    Args:
      pretrained: of `open_weights`.
      variables: of the segmenter: arrays, or their shapes alone.

    Returns:
      The variables, with float32 NumPy arrays from the file where it has them, and the placement of every array.

    Raises:
      WeightFileError: a parameter is missing in the file, or its shape or type is wrong; the message names the
        first ones.
    """
    paths, leaves = zip(*flatten(variables), strict=True)
    names = {path: pretrained.source.name(path) for path in paths}
    skipped = _skip_classifier(pretrained, dict(zip(paths, leaves, strict=True)), names)
    missing = [names[path] or path for path in paths if names[path] not in pretrained.arrays and _is_needed(path)]
    missing = list(dict.fromkeys(missing))  # Several of ours may be parts of one array.
    if missing:
        raise WeightFileError(
            f"{pretrained.path} ({pretrained.source.title}) lacks {len(missing)} of {len(paths)} parameters of this "
            f"model: {format_some(missing)}. {_which_fits(pretrained.path)}"
        )
    placed, loaded = [], []
    for path, leaf in zip(paths, leaves, strict=True):
        name = names[path]
        if name is not None and name in pretrained.arrays and name not in skipped:
            leaf = _convert(pretrained, name, path, leaf.shape)
            loaded.append(path)
        placed.append(leaf)
    used = {names[path] for path in loaded}
    for name in pretrained.arrays.keys() - used - skipped.keys():
        skipped[name] = "counters of batches" if name.endswith(".num_batches_tracked") else "no part of this model"
    variables = jax.tree.unflatten(jax.tree.structure(variables), placed)
    random = tuple(path for path in paths if path not in set(loaded))
    return variables, Placement(tuple(loaded), random, dict(sorted(skipped.items())))


def set_by(pretrained: Pretrained, config: ConfigDict, num_classes: int) -> ConfigDict:
    """Returns `model_settings.adopt` of the settings that the weights of a file expect.

    Raises:
      WeightFileError: see `expect_branches`.
    """
    expect_branches(pretrained, config, num_classes)
    return model_settings.adopt(config, pretrained.settings_for(num_classes), pretrained.path)


def expect_branches(pretrained: Pretrained, config: ConfigDict, num_classes: int) -> None:
    """Raises WeightFileError if only the user can know how many branches of the classifier act, and has not said so."""
    is_open = pretrained.leaves_branches_open(num_classes) and config.model.head == "atrous"
    if is_open and "branches" not in model_settings.kept(config):
        raise WeightFileError(
            f"{pretrained.path} ({pretrained.source.title}) does not say how many branches of its classifier act. "
            f"Expected --config.model.branches: {_OPEN_BRANCHES}. In a configuration file, also name it in "
            'config.init_keeps: ("branches",).'
        )


def describe(pretrained: Pretrained, placement: Placement) -> str:
    """Returns lines that list which arrays are loaded, skipped and random."""
    lines = [f"{pretrained.path}: {pretrained.source.title}; {len(placement.loaded)} arrays loaded."]
    if placement.random:
        lines.append(f"  Not in the file, random: {format_some(placement.random)}.")
    by_reason = {}
    for name, reason in placement.skipped.items():
        by_reason.setdefault(reason, []).append(name)
    lines += [f"  Skipped, {reason}: {format_some(names)}." for reason, names in by_reason.items()]
    if pretrained.settings:
        settings = [f"model.{key}={value}" for key, value in pretrained.settings.items()]
        lines.append(f"  They expect {', '.join(settings)}.")
    if pretrained.source.branches_open:
        lines.append(f"  How many branches of the classifier act is not in the file: {_OPEN_BRANCHES}.")
    return "\n".join(lines)


def from_foreign(path: str, array: np.ndarray) -> np.ndarray:
    """Transposes a PyTorch kernel [out, in, ...] to [..., in, out]; returns other arrays as is."""
    return array.transpose(*range(2, array.ndim), 1, 0) if path.endswith("/kernel") else array


def to_foreign(path: str, array: np.ndarray) -> np.ndarray:
    """Transposes a kernel to PyTorch's layout, the inverse of `from_foreign`; returns other arrays as is."""
    return array.transpose(-1, -2, *range(array.ndim - 2)) if path.endswith("/kernel") else array


def flat_variables(variables: Variables) -> dict[str, np.ndarray]:
    """Returns the segmenter's variables by path, such as "params/backbone/stem/kernel"."""
    return {path: np.asarray(leaf) for path, leaf in flatten(variables)}


def flatten(variables: Variables) -> list[tuple[str, jax.Array]]:
    """Returns every leaf with its path, such as "params/backbone/stem/kernel"."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def _skip_classifier(pretrained: Pretrained, leaves: Mapping, names: Mapping[str, str | None]) -> dict[str, str]:
    """Returns the names of the layers that return logits, with the reason, if for another number of classes."""
    ours_to_theirs = {
        path: name
        for path, name in names.items()
        if path.startswith(_WHOLE_CLASSIFIER) and name is not None and name in pretrained.arrays
    }
    found = {
        path: _in_our_layout(pretrained, name, path, leaves[path].shape).shape for path, name in ours_to_theirs.items()
    }
    outputs = [path for path in found if _OUTPUTS.match(path)]
    classes = {found[path][-1] for path in outputs if found[path]}
    ours = {leaves[path].shape[-1] for path in outputs}
    if classes == ours or len(classes) != 1:
        return {}
    if any(shape[:-1] != leaves[path].shape[:-1] for path, shape in found.items()):
        return {}  # Another network, for which `_convert` raises an error.
    reason = f"a classifier for {classes.pop()} classes instead of {ours.pop()}"
    return dict.fromkeys((ours_to_theirs[path] for path in outputs), reason)


def _in_our_layout(pretrained: Pretrained, name: str, path: str, shape: tuple[int, ...]) -> np.ndarray:
    array = pretrained.source.part(path, pretrained.arrays[name])
    if pretrained.source.layout == "ours" or array.ndim != len(shape):
        return array  # With another number of dimensions it does not fit: `_convert` raises an error.
    return from_foreign(path, array)


def _convert(pretrained: Pretrained, name: str, path: str, shape: tuple[int, ...]) -> np.ndarray:
    array = _in_our_layout(pretrained, name, path, shape)
    if not jnp.issubdtype(array.dtype, np.floating):  # NumPy's does not know bfloat16.
        raise WeightFileError(f"{pretrained.path}: expected floating-point numbers in {name}, found {array.dtype}.")
    if array.shape != tuple(shape):
        raise WeightFileError(
            f"{pretrained.path}: expected shape {tuple(shape)} for {path}, found {array.shape} in {name}. "
            f"{_which_fits(pretrained.path)}"
        )
    array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(array).all():
        raise WeightFileError(f"{pretrained.path}: expected finite numbers, found NaN or infinity in {name}.")
    return array


def _which_fits(path: str) -> str:
    return f"`python -m ass_jax.weights.pretrained {path}` says which model.backbone fits the file best."


def _is_needed(path: str) -> bool:
    return not path.startswith(_MAY_BE_MISSING)


def _model_for(pretrained: Pretrained, backbone: str | None) -> tuple[str, Variables]:
    """Returns a backbone, by default the one that fits the file best, and the shapes of its segmenter."""
    shapes = {name: _shapes(name, pretrained) for name in ([backbone] if backbone else BACKBONES)}

    def fit(backbone: str) -> int:
        return sum(1 if fits(path, leaf.shape) else -1 for path, leaf in flatten(shapes[backbone]))

    def fits(path: str, shape: tuple[int, ...]) -> bool:
        name = pretrained.source.name(path)
        if name is None or name not in pretrained.arrays:
            return False
        return _in_our_layout(pretrained, name, path, shape).shape == shape

    best = max(shapes, key=fit)
    return best, shapes[best]


def _shapes(backbone: str, pretrained: Pretrained) -> Variables:
    settings = {
        "backbone": backbone,
        "stride_in": "1x1",
        "batch_norm": "batch",
        "dtype": "float32",
        "branches": 4,
        "registers": 4 if pretrained.settings.get("registers") else 0,
    }
    model = build_deeplab(ConfigDict(settings), pretrained.num_classes or 1)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    return jax.eval_shape(lambda images: model.init(jax.random.key(0), images, train=False), images)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ass_jax.weights.pretrained", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "file",
        help="torchvision's ResNet or VGG-16, DeepLab of AdaptSegNet, ADVENT or CLAN, DINOv2, an export of ours, or "
        f"weights of an installed package: {', '.join(packages.PACKAGES)}",
    )
    # A shell leaves the ~ of --output=~/file as it is.
    parser.add_argument("--output", type=os.path.expanduser, help="file to write: NAME.safetensors, for --config.init")
    parser.add_argument("--backbone", choices=list(BACKBONES), help="of the model; default: the one that fits best")
    parser.add_argument(
        "--branches", type=int, choices=range(1, len(DILATIONS) + 1), help="of the classifier that act, to be written"
    )
    options = parser.parse_args(arguments)
    try:
        pretrained = open_weights(options.file)
        backbone, variables = _model_for(pretrained, options.backbone)
        variables, placement = place(pretrained, variables)
        say(f"{describe(pretrained, placement)}\n  Backbone: {backbone}.")
        if options.output:
            settings = dict(pretrained.settings) | ({"branches": options.branches} if options.branches else {})
            if pretrained.source.branches_open and pretrained.num_classes and not options.branches:
                raise WeightFileError(f"{options.file}: expected --branches, which act: {_OPEN_BRANCHES}.")
            arrays = dict(flatten(variables))
            write_arrays(
                options.output,
                {path: np.asarray(arrays[path]) for path in placement.loaded},
                model_settings.to_metadata(settings),
            )
            say(f"Written: {options.output}; use it with --config.init={options.output}.")
    except UserError as error:
        return print_user_error(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
