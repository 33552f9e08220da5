"""Exports the trained segmenter of a run to a file.

    python -m ass_jax.weights.export runs/toy --output=model.safetensors    our names: for --config.init and --weights
    python -m ass_jax.weights.export runs/gta5 --output=model.pth           AdaptSegNet's names: for PyTorch
    python -m ass_jax.weights.export runs/toy --output=model.jaxexport      a program that runs without this code

`--names=huggingface` writes the backbone of DINOv2 alone to a .safetensors file, for `Dinov2Model` of transformers.

The program needs JAX alone:

    import jax, numpy as np
    from PIL import Image
    with open("model.jaxexport", "rb") as file:
        program = jax.export.deserialize(bytearray(file.read()))
    image = np.asarray(Image.open("street.png").convert("RGB"))
    labels, confidence = program.call(image[None])  # uint8 and float32 [1, H, W]
"""

import argparse
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from ass_jax.method import views
from ass_jax.models.deeplab import DILATIONS
from ass_jax.models.preprocess import normalise
from ass_jax.ops import resize_bilinear
from ass_jax.runtime.console import print_user_error, say
from ass_jax.weights.files import WeightFileError, replacing, write_arrays
from ass_jax.weights.model_settings import SETTINGS, to_metadata
from ass_jax.weights.names import adaptsegnet_name, huggingface_name
from ass_jax.weights.pretrained import flat_variables, to_foreign
from ass_jax.weights.trained_model import Trained, description, open_run
from configs.user_error import UserError

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM_SUFFIX = ".jaxexport"
_COUNTER = "num_batches_tracked"  # PyTorch's batch norm saves it beside its statistics.


def weight_settings(trained: Trained) -> dict[str, object]:
    """Returns the settings of `config.model` that belong to the weights."""
    model = trained.config.model
    return {name: model[name] for name in SETTINGS if name in model}  # Older files lack some.


def state_dict(trained: Trained) -> dict[str, np.ndarray]:
    """Returns the segmenter as a PyTorch state dict for AdaptSegNet's model with one classifier.

    That model has all four branches; branches that this segmenter lacks are 0.

    Returns:
      float32 arrays in PyTorch's layouts, and int64 counters of batch norm (0).
    """
    backbone, found = trained.config.model.backbone, {}
    for path, array in flat_variables(trained.variables).items():
        name = adaptsegnet_name(path, backbone)
        found[name] = to_foreign(path, array).copy()  # PyTorch needs writable memory.
        if name.endswith(".running_var"):
            found[name.replace("running_var", _COUNTER)] = np.zeros((), np.int64)
    first, *others = (f"params/classifier/dilation{dilation}/" for dilation in DILATIONS)
    for leaf in ("kernel", "bias"):
        zeros = np.zeros_like(found[adaptsegnet_name(first + leaf, backbone)])
        for branch in others:
            found.setdefault(adaptsegnet_name(branch + leaf, backbone), zeros.copy())
    return found


def huggingface_dict(trained: Trained) -> dict[str, np.ndarray]:
    """Returns the backbone as a state dict for `Dinov2Model`, or `Dinov2WithRegistersModel`, of transformers.

    Its mask token, which only DINOv2's own training uses, is 0.

    Raises:
      WeightFileError: the backbone is another one.
    """
    found = {}
    for path, array in flat_variables(trained.variables).items():
        if not path.startswith("params/backbone/"):
            continue
        name = huggingface_name(path)
        if name is None:
            raise WeightFileError(
                f"Hugging Face's names are those of DINOv2; the run's backbone is {trained.config.model.backbone!r}."
            )
        found[name] = to_foreign(path, array)
    width = found["embeddings.cls_token"].shape[-1]
    return found | {"embeddings.mask_token": np.zeros((1, width), np.float32)}


def program(trained: Trained) -> bytearray:
    """Returns a program for any number of images of any size that runs on CPU, GPU and TPU without this code.

    It maps images uint8 [B, H, W, 3] RGB to labels uint8 [B, H, W] and their probabilities float32 [B, H, W]. Like
    the evaluations of the training, it resizes the images to the size of training and averages all views of
    `config.evaluation`. `jax.export` serialises it with the weights.
    """
    network, config = trained.networks.segmenter, trained.config
    variables = jax.tree.map(jnp.asarray, trained.variables)

    def logits(images: jax.Array) -> jax.Array:
        return network.apply(variables, normalise(images, config), train=False)[1]

    def label(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        size = (images.shape[0], *config.data.target_size, 3)
        resized = jnp.round(jax.image.resize(images.astype(jnp.float32), size, "linear"))
        scores = resize_bilinear(views.scores(logits, resized, config.evaluation), images.shape[1:3])
        single = views.is_single(resized.shape[1:3], config.evaluation)
        probabilities = jax.nn.softmax(scores) if single else scores
        return jnp.argmax(probabilities, axis=-1).astype(jnp.uint8), jnp.max(probabilities, axis=-1)

    images = jax.ShapeDtypeStruct(export.symbolic_shape("batch, height, width, 3"), jnp.uint8)
    return export.export(jax.jit(label), platforms=PLATFORMS)(images).serialize()


def write(trained: Trained, path: str | os.PathLike, names: str | None = None) -> None:
    """Writes a segmenter to a `.safetensors`, `.pth` or `.jaxexport` file.

    Args:
      trained: the segmenter.
      path: of the file.
      names: "huggingface" writes `huggingface_dict` to a `.safetensors` file; default: names by the ending.

    Raises:
      WeightFileError: the ending is unknown, the folder cannot be made, PyTorch, which `.pth` needs, is missing, or the
        backbone has no such names.
      UserError: the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    writers = {".safetensors": _write_safetensors, ".pth": _write_torch, PROGRAM_SUFFIX: _write_program}
    if names == "huggingface":
        writers = {".safetensors": _write_huggingface}
    if suffix not in writers:
        of = f" with {names}'s names" if names else ""
        raise WeightFileError(f"{path}: unknown ending. Valid{of}: {', '.join(writers)}.")
    writers[suffix](trained, path)


def _write_safetensors(trained: Trained, path: Path) -> None:
    metadata = to_metadata(weight_settings(trained)) | description(trained)
    write_arrays(path, flat_variables(trained.variables), metadata)


def _write_huggingface(trained: Trained, path: Path) -> None:
    write_arrays(path, huggingface_dict(trained), {"format": "pt"})  # Without it, transformers refuses the file.


def _write_torch(trained: Trained, path: Path) -> None:
    try:
        import torch
    except ImportError as error:
        raise WeightFileError(f"{path}: writing PyTorch files needs PyTorch: `pip install torch`.") from error
    tensors = {name: torch.from_numpy(array) for name, array in state_dict(trained).items()}
    with replacing(path) as temporary:
        torch.save(tensors, temporary)


def _write_program(trained: Trained, path: Path) -> None:
    content = program(trained)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ass_jax.weights.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workdir", type=os.path.expanduser, help="working directory of a training run")
    # A shell leaves the ~ of --output=~/file as it is.
    parser.add_argument(
        "--output", type=os.path.expanduser, required=True, help="file to write; its ending selects the format"
    )
    parser.add_argument("--step", type=int, help="step of the checkpoint; default: the latest one")
    parser.add_argument("--average", action="store_true", help="export the moving average of the weights")
    parser.add_argument("--names", choices=["huggingface"], help="of the parameters; default: by the ending")
    options = parser.parse_args(arguments)
    try:
        trained = open_run(options.workdir, options.step, options.average)
        write(trained, options.output, options.names)
    except UserError as error:
        return print_user_error(error)
    say(f"Written: {options.output}, {os.path.getsize(options.output) / 1e6:.1f} MB.")
    if options.output.lower().endswith(".pth"):
        settings = (f"{name}={value}" for name, value in weight_settings(trained).items())
        say(f"A state dict has no metadata; its weights expect {', '.join(settings)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
