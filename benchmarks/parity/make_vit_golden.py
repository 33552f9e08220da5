"""Makes the golden numbers of the Vision Transformer with transformers and timm.

    python -m benchmarks.parity.make_vit_golden tests/golden

Needs in addition to the requirements `pip install torch==2.13.0 transformers==5.24.0 timm==1.0.31`. The tests read the
file and need no PyTorch.
"""

import collections
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy
import timm
import torch
import transformers
from timm.layers import resample_abs_pos_embed
from torch.nn import functional

from ass_jax.models.vit import padded_size
from ass_jax.weights.names import find_source, huggingface_name
from ass_jax.weights.pretrained import flatten, from_foreign, to_foreign
from benchmarks.parity import vit_inputs

# What transformers calls the layers of attention in memory; files have other names.
_IN_MEMORY = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}


def main(folder: Path) -> None:
    """Writes the file."""
    torch.set_num_threads(1)
    found = resized_positions()
    networks = {
        (library, kind): make(kind)
        for library, make in {"transformers": huggingface, "timm": timm_network}.items()
        for kind in vit_inputs.REGISTERS
    }
    for library, kind, size in vit_inputs.COMPARED:
        network = networks[library, kind]
        found |= {f"{library}_{kind}_{size}_{name}": array for name, array in results(network, size).items()}
    found["levels"] = levels(networks["timm", "registers"], "wide")
    np.savez_compressed(folder / "vit.npz", **found)


def resized_positions() -> dict[str, np.ndarray]:
    """Returns positions resized by the code of DINOv2 and of both libraries."""
    grid, found = torch.from_numpy(vit_inputs.positions()), {}
    planes, row = grid.permute(2, 0, 1)[None], grid.reshape(1, -1, grid.shape[-1])
    for name, size in vit_inputs.GRIDS.items():
        # `interpolate_pos_encoding` of DINOv2 with `interpolate_offset`; without, it passes the size.
        factors = tuple(float(length + 0.1) / len(grid) for length in size)
        resized = {
            "dinov2": functional.interpolate(planes, scale_factor=factors, mode="bicubic"),
            "plain": functional.interpolate(planes, size=size, mode="bicubic", align_corners=False),
            "antialias": functional.interpolate(planes, size=size, mode="bicubic", antialias=True),
        }
        again = resample_abs_pos_embed(row, list(size), num_prefix_tokens=0).reshape(*size, -1)
        torch.testing.assert_close(again, resized["antialias"][0].permute(1, 2, 0))
        found |= {f"{rule}_{name}": array[0].permute(1, 2, 0).numpy() for rule, array in resized.items()}
    return found


def huggingface(kind: str) -> torch.nn.Module:
    """Returns the network of transformers, which reads its parameters from a file."""
    name = {"dinov2": "Dinov2", "registers": "Dinov2WithRegisters"}[kind]
    settings = vit_inputs.SETTINGS
    config = getattr(transformers, f"{name}Config")(
        hidden_size=settings["width"],
        num_hidden_layers=settings["depth"],
        num_attention_heads=settings["heads"],
        image_size=14 * settings["grid"],
        patch_size=14,
    )
    arrays = {huggingface_name(path): to_foreign(path, array) for path, array in parameters(kind).items()}
    arrays["embeddings.mask_token"] = np.zeros((1, settings["width"]), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        safetensors.numpy.save_file(arrays, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        model, told = getattr(transformers, f"{name}Model").from_pretrained(folder, output_loading_info=True)
    assert not any(told.values()), told
    return model


def timm_network(kind: str) -> torch.nn.Module:
    """Returns the network of timm."""
    settings = vit_inputs.SETTINGS
    model = timm.create_model(
        {"dinov2": "vit_small_patch14_dinov2", "registers": "vit_small_patch14_reg4_dinov2"}[kind],
        embed_dim=settings["width"],
        depth=settings["depth"],
        num_heads=settings["heads"],
        img_size=14 * settings["grid"],
        dynamic_img_size=True,
    )
    source, arrays = find_source(model.state_dict()), collections.defaultdict(dict)
    for path, array in parameters(kind).items():
        arrays[source.name(path)][path.split("/")[-2]] = to_foreign(path, array)
    joined = {
        name: np.concatenate([parts[layer] for layer in ("query", "key", "value")]) if len(parts) > 1 else array
        for name, parts in arrays.items()
        for array in list(parts.values())[:1]
    }
    if kind == "registers":  # As timm's own import.
        joined["cls_token"] = joined["cls_token"] + joined["pos_embed"][:, :1]
        joined["pos_embed"] = joined["pos_embed"][:, 1:]
    model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in joined.items()})
    return model


def results(network: torch.nn.Module, size: str) -> dict[str, np.ndarray]:
    """Returns the features [2, h, w, D].

    For `GRADIENT_SIZE` also samples of the gradient of every parameter, in the order of our paths, and the largest
    value of each.
    """
    images = _padded(size)
    if isinstance(network, transformers.PreTrainedModel):
        tokens = network(images).last_hidden_state
    else:
        tokens = network.forward_features(images)
    cotangent = vit_inputs.cotangent(size)
    features = tokens[:, -np.prod(cotangent.shape[1:3]) :].reshape(cotangent.shape)
    if size != vit_inputs.GRADIENT_SIZE:
        return {"features": features.detach().numpy()}
    (features * torch.from_numpy(cotangent)).sum().backward()
    found = gradients(network)
    return {
        "features": features.detach().numpy(),
        "gradients": np.concatenate([vit_inputs.gradient_sample(path, array) for path, array in found.items()]),
        "largest": np.array([np.abs(array).max() for array in found.values()]),
    }


def gradients(network: torch.nn.Module) -> dict[str, np.ndarray]:
    """Returns the gradients by our path, in our layout."""
    theirs = {name: tensor.grad for name, tensor in network.named_parameters() if tensor.grad is not None}
    for in_file, in_memory in _IN_MEMORY.items():
        theirs = {name.replace(in_memory, in_file): array for name, array in theirs.items()}
    source, found = find_source(theirs), {}
    kind = "registers" if source.settings["registers"] else "dinov2"
    for path in parameters(kind):
        found[path] = from_foreign(path, source.part(path, theirs[source.name(path)].numpy()))
    return found


def levels(network: torch.nn.Module, size: str) -> np.ndarray:
    """Returns the features of four blocks after the final layer norm, stacked: [4, 2, h, w, D / LEVEL_STEP]."""
    with torch.no_grad():
        maps = network.get_intermediate_layers(_padded(size), n=[0, 1, 2, 3], reshape=True, norm=True)
    return torch.stack(maps).permute(0, 1, 3, 4, 2)[..., :: vit_inputs.LEVEL_STEP].numpy()


def parameters(kind: str) -> Mapping[str, np.ndarray]:
    """Returns the parameters by our path."""
    return dict(flatten({"params": {"backbone": vit_inputs.params(kind)}}))


def _padded(size: str) -> torch.Tensor:
    images = vit_inputs.images(size)
    padding = [
        (0, length - found) for length, found in zip(padded_size(images.shape[1:3]), images.shape[1:3], strict=True)
    ]
    return torch.from_numpy(np.pad(images, ((0, 0), *padding, (0, 0)))).permute(0, 3, 1, 2)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
