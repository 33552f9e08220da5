"""Puts the findings about a split into words and numbers."""

from collections.abc import Iterator, Sequence

from data.checking.survey import Survey
from data.datasets.spec import DatasetSpec
from data.raw.faults import Fault, printable

_SHOWN = 20  # Files of a kind of fault on the console; the report in a file names all.
# Kind of fault, as in `data.raw.faults.KINDS` -> what to do about it.
REMEDIES = {
    "missing folder": "Put the folder there, or name another root.",
    "missing image": "Get the images again, or remove the label.",
    "missing label": "Get the labels again, or remove the image.",
    "missing field of view": "Get the masks again, or remove the image and its label.",
    "odd name": "Give the file the expected name, or move it elsewhere.",
    "unreadable": "Allow reading (chmod), repair the link or check the disk.",
    "damaged": "Unpack or download the file again.",
    "bit depth": "Get the original again: a program has saved it with other bits.",
    "colours": "Use the label of raw ids, not the one for display.",
    "lossy label": "Get the labels as they are published, which are no JPEG: what was lost cannot be restored.",
    "not binary": "Use the mask of two values.",
    "size mismatch": "Get both files again; never resize one of them alone.",
    "affine mismatch": "Get both files again; register or resample none of them alone.",
    "not finite": "Get the original again: a program has saved it with invalid numbers.",
    "train ids": "Use the labels as they were downloaded: raw ids are mapped while training. If these are raw ids, set "
    "--config.data.trust_raw_ids.",
    "unknown ids": "Use the labels as they were downloaded; a JPEG saved as PNG again also looks like this.",
    "all ignored": "Remove the pair.",
}
# The same for the user's own data, which nobody publishes, where other advice can be followed.
OWN_REMEDIES = REMEDIES | {
    "not binary": "Use the mask of two values; numbers of classes need data.custom.source_encoding or target_encoding "
    "'indices'.",
    "missing image": "Add the image, or remove the label.",
    "missing label": "Add the label, or remove the image.",
    "damaged": "Copy or save the file again; if no program opens it, remove the image and its label.",
    "bit depth": "Save images with 8 bits a channel, and labels as whole numbers of 8, 16 or 32 bits.",
    "colours": "Use labels of one number a pixel, or name their colours: data.custom.source_encoding or "
    "target_encoding 'colours'.",
    "lossy label": "Masks of two values may stay JPEG: set data.custom.source_encoding or target_encoding to 'binary'. "
    "Other labels are lost in a JPEG: export them again as PNG from the program that made them, or remove the pair.",
    "size mismatch": "Export both at one size. Where only the label differs, resize it to its image by nearest "
    "neighbour, so that no new numbers arise.",
    "unknown ids": "Give the larger numbers a class in data.custom.source_ids or target_ids, or save the label with "
    "numbers below 256.",
    "all ignored": "Declare its numbers in data.custom.source_ids or target_ids, or remove the pair.",
}


def lines(result: Survey, spec: DatasetSpec, domain: str, table: Sequence[str | None]) -> Iterator[str]:
    """Yields the content of the usable pairs.

    Args:
      result: of the split.
      spec: its dataset.
      domain: "source" or "target".
      table: raw id -> class of the run; None where it is ignored.
    """
    usable = result.read - len(result.bad)
    if not usable:
        return
    yield f"images: {_kinds(result.image_kinds)}"
    for size, count in result.sizes.most_common(_SHOWN):
        odd = ""
        if spec.sizes and size not in spec.sizes:
            expected = " or ".join(f"{width}x{height}" for height, width in sorted(spec.sizes, reverse=True))
            odd = f"   (expected {expected}; the first one: {printable(str(result.size_examples[size].image))})"
        yield f"  {size[1]}x{size[0]} pixels: {count}{odd}"
    if len(result.sizes) > _SHOWN:
        yield f"  ... {len(result.sizes) - _SHOWN} more sizes"
    if not result.labels:
        yield "labels: none"
        return
    yield f"labels: {_kinds(result.label_kinds)}"
    yield from _histogram(result, spec, domain, table)


def _histogram(result: Survey, spec: DatasetSpec, domain: str, table: Sequence[str | None]) -> Iterator[str]:
    total = sum(result.pixels.values())
    known = spec.labels.known_ids
    yield f"  {'colour' if spec.labels.colours else 'raw id'}   share of pixels   labels   class"
    for raw_id in sorted(result.pixels):
        name = table[raw_id]
        if name is None and known is not None and raw_id not in known:
            name = f"UNKNOWN, ignored; the first one: {printable(str(result.id_examples[raw_id].label))}"
        elif name is None:
            name = f"ignored{_without_class(spec, domain, raw_id)}"
        shown = _shown_id(spec, raw_id)
        yield f"  {shown:>6}   {result.pixels[raw_id] / total:15.2%}   {result.images[raw_id]:6}   {printable(name)}"
    yield from _unknown_colours(result, domain)
    ignored = sum(pixels for raw_id, pixels in result.pixels.items() if table[raw_id] is None)
    yield f"  ignored in all: {ignored / total:.2%} of the pixels"
    classes = [name for name in dict.fromkeys(table) if name is not None]
    found = {table[raw_id] for raw_id in result.pixels}
    if absent := [name for name in classes if name not in found]:
        yield f"  expected, but in no label: {printable(', '.join(absent))}"
    if (spec.labels.encoding == "binary" or spec.labels.is_volume) and (
        empty := [pair.name for pair in result.only_zero]
    ):
        more = ", ..." if len(empty) > _SHOWN else ""
        yield f"  empty masks: {len(empty)}: {printable(', '.join(empty[:_SHOWN]))}{more}"
    if bare := result.without_class:
        yield f"  labels without a pixel of these classes: {len(bare)}, the first one: {printable(str(bare[0].label))}"


def _shown_id(spec: DatasetSpec, raw_id: int) -> str:
    """Returns a raw id as text: the colour that it stands for, or "others" for all other colours."""
    colours = spec.labels.colours
    if not colours:
        return str(raw_id)
    return str(tuple(colours[raw_id])) if raw_id < len(colours) else "others"


def _unknown_colours(result: Survey, domain: str) -> Iterator[str]:
    colours = result.unknown_colours.most_common()
    if not colours:
        return
    yield f"  ignored colours, which are not in data.custom.{domain}_ids or, where it is empty, data.custom.palette:"
    for colour, pixels in colours[:_SHOWN]:
        labels = result.labels_with_colours[colour]
        yield f"    {colour}: {pixels} pixels in {labels} label{'s' * (labels > 1)}"
    if (more := len(colours) - _SHOWN) > 0:
        yield f"    ... {more} more or others; so many are a sign of labels that were resized or compressed with loss"


def _without_class(spec: DatasetSpec, domain: str, raw_id: int) -> str:
    if raw_id in spec.labels.raw_ids:
        return f" ({spec.labels.raw_ids[raw_id]}: not in data.classes)"
    if spec.labels.colours:
        return " (colours without a class, see below)"
    return f" (not in data.custom.{domain}_ids)" if spec.name == "custom" else ""


def fault_lines(faults: Sequence[Fault], spec: DatasetSpec, *, all_of_them: bool) -> Iterator[str]:
    """Yields faults by kind, each kind with a remedy; names some files of each kind, or with `all_of_them` all."""
    kinds = dict.fromkeys(fault.kind for fault in faults)
    remedies = OWN_REMEDIES if spec.name == "custom" else REMEDIES
    for kind in kinds:
        own = [fault for fault in faults if fault.kind == kind]
        yield f"{kind}: {len(own)}. {remedies[kind]}"
        for fault in own if all_of_them else own[:_SHOWN]:
            known = "   (known: in the official archives too)" if fault.file.stem in spec.known_bad else ""
            yield f"  {fault}{known}"
        if not all_of_them and len(own) > _SHOWN:
            yield f"  ... {len(own) - _SHOWN} more"


def _kinds(kinds: dict[str, int]) -> str:
    return "; ".join(f"{count} {kind}" for kind, count in kinds.items())
