"""The streams of a run and the parts of its data, as a configuration gives them. Imports no TensorFlow."""

from ml_collections import ConfigDict

from configs.user_error import UserError

STREAMS = ("source", "labelled", "unlabelled")
# Weight of a term -> the streams that it reads: at least one of each group. Labelled streams are read anyway.
READ = {
    "loss.global_weight": (("source",), ("unlabelled",)),
    "loss.semantic_weight": (("source",), ("labelled",)),
    "teacher.mixed_weight": (("unlabelled",), ("source", "labelled")),
    "model.adapt_statistics": (("unlabelled",),),
}
# Stream -> part of a run's data.
PARTS = {"source": "source_train", "labelled": "target_train", "unlabelled": "target_train"}


def streams(config: ConfigDict) -> dict[str, int]:
    """Returns the images per step, over all hosts, of every stream that a term of the loss needs.

    Args:
      config: the whole configuration.

    Returns:
      Stream name to images per step, in the order of `STREAMS`. Streams of no images are absent, and so is the
      unlabelled one where no term reads it.
    """
    read = [group for key, groups in READ.items() if _weight(config, key) > 0 for group in groups]
    reads_unlabelled = ("unlabelled",) in read or semantic_reads_unlabelled(config)
    needed = {"source": True, "labelled": True, "unlabelled": reads_unlabelled}
    return {name: config.data.batch[name] for name in STREAMS if needed[name] and config.data.batch[name]}


def semantic_reads_unlabelled(config: ConfigDict) -> bool:
    """Returns whether the semantic term reads unlabelled images, beside the streams of `READ`."""
    return bool(config.loss.semantic_weight > 0 and config.loss.semantic_unlabelled)


def shapes(config: ConfigDict) -> dict[str, tuple[int, int, int, bool]]:
    """Returns the images per step, their height and width, and whether they have labels, of each stream needed."""
    crop = tuple(config.augment.crop)
    found = {}
    for name, images in streams(config).items():
        size = config.data.source_size if name == "source" else config.data.target_size
        height, width = crop if any(crop) else size
        found[name] = (images, height, width, name != "unlabelled")
    return found


def parts(config: ConfigDict) -> list[str]:
    """Returns the parts of the data that a run reads, such as "source_train", each once."""
    held_out = ["target_train"] if config.data.held_out else []
    needed = [PARTS[name] for name in streams(config)] + held_out + [evaluation_part(config)]
    return list(dict.fromkeys(needed))


def evaluation_part(config: ConfigDict) -> str:
    """Returns the part of the data whose images are scored."""
    split = config.evaluation.split
    return PARTS["source"] if split == "source" else f"target_{split}"


def reads_target_labels(config: ConfigDict) -> bool:
    """Returns whether a run reads labels of target training images."""
    return "labelled" in streams(config) or bool(config.data.held_out)


def host_share(key: str, images: int, hosts: int) -> int:
    """Returns how many of the `images` per step each host takes.

    Args:
      key: the setting that holds `images`.
      images: images per step over all hosts.
      hosts: number of hosts.

    Raises:
      UserError: they cannot be shared evenly.
    """
    if images % hosts:
        raise UserError(f"{key} is {images}; expected a multiple of {hosts}, the number of hosts.")
    return images // hosts


def _weight(config: ConfigDict, key: str) -> float:
    group, name = key.split(".")
    return config[group][name]
