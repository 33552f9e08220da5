"""Prepared datasets hold what their files hold, and are prepared again only after a change."""

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from data import pipeline
from data.classes import IGNORED, class_table, train_ids
from data.datasets.registry import SPECS
from data.preparation import prepare, provenance, records, split_index
from data.raw import file_access
from data.reading import split_reader
from tests.helpers import trees
from tests.helpers.miniature_specs import SIZES
from tests.helpers.split_records import open_split, read


def files_of(folder):
    of_files = (prepare.REJECTED, provenance.SOURCES, provenance.LISTINGS)
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name not in of_files}


def by_hand(data_set, raw, classes="cityscapes19"):
    table = class_table(classes)
    ids = dict(trees.OWN_IDS) if data_set == "custom" else SPECS[data_set].labels.raw_ids
    found = np.full(raw.shape, IGNORED, np.uint8)
    for raw_id, name in ids.items():
        if name in table.names:
            found[raw == raw_id] = table.names.index(name)
    return found


@pytest.mark.parametrize("source", ["gta5", "synthia", "custom"])
def test_batches_match_the_files(config, source, tmp_path):
    sources = trees.WRITERS[source](tmp_path / "source", count=3)
    targets = trees.write_cityscapes(tmp_path / "target", "train", 3)
    validation = trees.write_cityscapes(tmp_path / "target", "val", 2)
    config.data.source, config.data.source_size = source, SIZES[source]
    config.data.batch.update(source=3, labelled=3, unlabelled=3)
    batch = next(pipeline.training_batches(config))
    for stream, tree in (("source", sources), ("labelled", targets)):
        expected = {image.tobytes(): label for image, label in zip(tree.images, tree.labels, strict=True)}
        for image, label in zip(batch[stream]["image"], batch[stream]["label"], strict=True):
            np.testing.assert_array_equal(label, by_hand(tree.data_set, expected.pop(image.tobytes())))
        assert not expected
    assert {image.tobytes() for image in batch["unlabelled"]["image"]} == {image.tobytes() for image in targets.images}
    config.evaluation.batch = 2
    (batch,) = pipeline.evaluation_batches(config)
    np.testing.assert_array_equal(batch["image"], validation.images)
    np.testing.assert_array_equal(batch["label"], by_hand("cityscapes", np.array(validation.labels)))
    assert batch["valid"].all()


def test_own_data_works_in_both_domains(config, tmp_path):
    trees.write_custom(tmp_path / "source")
    target = trees.write_custom(tmp_path / "target", count=3)
    trees.write_custom(tmp_path / "target", "more", "more masks", count=2)
    config.data.update(source="custom", target="custom", classes="toy")
    config.data.update(source_size=SIZES["custom"], target_size=SIZES["custom"])
    config.data.custom.update(validation_images="more", validation_labels="more masks")
    target.label_files[1].unlink()
    split = split_reader.open_splits(config, ["target_train"])["target_train"]
    assert split.names() == target.names
    assert split.labelled().tolist() == [True, False, True]
    example = split.decoder("image", "label")(split.fetch(np.array([1]))[0])
    np.testing.assert_array_equal(example["image"], target.images[1])
    assert (example["label"].numpy() == IGNORED).all()
    expected = np.bincount(target.labels[2].ravel(), minlength=256)
    np.testing.assert_array_equal(split.class_counts(), [split.class_counts()[0], np.zeros(256), expected])
    (batch, _) = pipeline.evaluation_batches(config)
    np.testing.assert_array_equal(batch["label"][0], by_hand("custom", trees.scene("custom", 0, (24, 40))[1], "toy"))
    assert next(pipeline.training_batches(config))["source"]["label"].shape == (1, 24, 40)


@pytest.mark.parametrize("encoding", ["indices", "binary"])
def test_unlabelled_images_show_no_class_where_255_is_one(config, encoding, tmp_path):
    tree = trees.write_custom(tmp_path / "target", count=3)
    masks = [np.where(label == label[12, 20], 255, 0).astype(np.uint8) for label in tree.labels]
    for file, mask in zip(tree.label_files, masks, strict=True):
        file.write_bytes(trees.png_bytes(mask // 255 if encoding == "binary" else mask))
    tree.label_files[1].unlink()
    config.data.update(target="custom", classes="toy", target_size=SIZES["custom"])
    config.data.custom.update(target_encoding=encoding, target_ids=((0, "road"), (255, "sky")))
    split = split_reader.open_splits(config, ["target_train"])["target_train"]
    decode, names = split.decoder("label"), class_table("toy").names
    labels = [decode(record)["label"].numpy()[..., 0] for record in split.fetch(np.arange(3))]
    for found, mask in ((labels[0], masks[0]), (labels[2], masks[2])):
        np.testing.assert_array_equal(found, np.where(mask, names.index("sky"), names.index("road")))
    assert (labels[1] == IGNORED).all()
    assert split.labelled().tolist() == [True, False, True]
    assert not split.class_counts()[1].any()


def test_records_without_their_index_are_refused(config, tmp_path):
    trees.write_gta5(tmp_path / "source", count=2)
    builder = open_split(config)
    split_index.file_of(Path(builder.data_path), "train").unlink()
    with pytest.raises(ValueError, match="is not a complete dataset; remove it"):
        open_split(config)


def test_own_labels_may_have_large_ids(config, tmp_path):
    tree = trees.write_custom(tmp_path / "source", count=1)
    raw = tree.labels[0].astype(np.uint16) + 1000
    raw[0, 0] = 65535
    tree.label_files[0].write_bytes(trees.png_bytes(raw))
    config.data.update(source="custom", source_size=SIZES["custom"], classes="toy")
    config.data.custom.source_ids = tuple((raw_id + 1000, name) for raw_id, name in trees.OWN_IDS)
    split = split_reader.open_splits(config, ["source_train"])["source_train"]
    found = split.decoder("label")(split.fetch(np.array([0]))[0])["label"][..., 0]
    expected = by_hand("custom", tree.labels[0], "toy")
    expected[0, 0] = IGNORED
    np.testing.assert_array_equal(found, expected)
    assert split.class_counts().shape == (1, 1000 + len(trees.OWN_IDS))
    assert split.class_counts()[0, 1000] == (raw == 1000).sum()


@pytest.mark.parametrize("full_size", [False, True])
def test_images_and_labels_are_resized_unless_full_size(config, full_size, tmp_path):
    tree = trees.write_gta5(tmp_path / "source", count=2, size=(53, 95))
    config.data.update(source_size=(26, 48), full_size=full_size)
    for number, example in enumerate(read(open_split(config)).values()):
        image, label = tree.images[number], tree.labels[number][..., None]
        if not full_size:
            image = tf.image.resize(image, (26, 48), antialias=True).numpy()
            label = tf.image.resize(label, (26, 48), "nearest")
        assert np.abs(example["image"] - image.astype(float)).max() <= (0 if full_size else 1)
        np.testing.assert_array_equal(example["label"], label)


@pytest.mark.parametrize("size", [((1052, 1914), (720, 1280)), ((960, 1280), (720, 1280)), ((1024, 2048), (512, 1024))])
def test_resizing_agrees_with_tensorflow(size):
    old, new = size
    image, label = trees.scene("gta5", 0, old)
    resized = tf.image.resize(image, new, antialias=True)
    assert np.abs(records.resize_image(image, new) - resized.numpy()).max() <= 1
    nearest = tf.image.resize(label[..., None], new, "nearest")[..., 0]
    np.testing.assert_array_equal(records.resize_label(label, new), nearest)


def test_validation_labels_keep_their_size(config, tmp_path):
    tree = trees.write_cityscapes(tmp_path / "target", "val", 3)
    config.data.target_size = (16, 32)
    builder = open_split(config, "target_validation")
    for name, label in zip(tree.names, tree.labels, strict=True):
        example = read(builder)[name]
        assert example["image"].shape == (16, 32, 3)
        np.testing.assert_array_equal(example["label"][..., 0], label)
    found = split_index.read_index(split_index.file_of(Path(builder.data_path), "val"))
    assert found.label_sizes.tolist() == [[32, 64]] * 3


def test_test_images_are_prepared_on_demand(config, tmp_path):
    trees.write_cityscapes(tmp_path / "target", "train", 2)
    tree = trees.write_cityscapes(tmp_path / "target", "test", 2)
    shutil.rmtree(tmp_path / "target" / "gtFine" / "test")
    open_split(config, "target_train")
    assert not list((tmp_path / "prepared" / "cityscapes").glob("test*"))
    builder = open_split(config, "target_test")
    np.testing.assert_array_equal([example["image"] for example in read(builder).values()], tree.images)


def test_index_matches_the_records(config, tmp_path):
    tree = trees.write_gta5(tmp_path / "source", count=5)
    split = split_reader.open_splits(config, ["source_train"])["source_train"]
    assert split.names() == tree.names
    assert split.labelled().all()
    expected = [np.bincount(label.ravel(), minlength=256) for label in tree.labels]
    np.testing.assert_array_equal(split.class_counts(), expected)
    np.testing.assert_array_equal(split.table, train_ids(SPECS["gta5"].labels.raw_ids, class_table("cityscapes19")))


def test_zip_files_give_the_same_records(config, tmp_path):
    trees.write_cityscapes(tmp_path / "target", "train", 5)
    folder = open_split(config, "target_train").data_path
    trees.write_zip_files(tmp_path / "target", tmp_path / "zip")
    config.data.update(target_root=str(tmp_path / "zip"), directory=str(tmp_path / "other"))
    again = open_split(config, "target_train").data_path
    assert folder != again
    assert files_of(folder) == files_of(again)


def test_changed_files_and_settings_are_prepared_again(config, tmp_path):
    tree = trees.write_gta5(tmp_path / "source", count=2)
    folders = [open_split(config).data_path]
    assert open_split(config).data_path == folders[0]
    tree.image_files[0].write_bytes(trees.png_bytes(tree.images[0] // 2))
    folders.append(open_split(config).data_path)
    trees.write_gta5(tmp_path / "source", count=3)
    folders.append(open_split(config).data_path)
    config.data.source_size = (13, 24)
    folders.append(open_split(config).data_path)
    config.data.full_size = True
    folders.append(open_split(config).data_path)
    assert len(set(folders)) == 5


def test_prepared_data_is_read_without_the_original_files(config, tmp_path):
    trees.write_gta5(tmp_path / "source", count=2)
    folder = open_split(config).data_path
    shutil.rmtree(tmp_path / "source")
    assert open_split(config).data_path == folder
    config.data.source_root = ""
    assert open_split(config).data_path == folder
    config.data.source_size = (13, 24)
    with pytest.raises(ValueError, match="was not found"):
        open_split(config)
    config.data.source_size = (26, 48)
    shutil.copytree(folder.parent, f"{str(folder.parent).rpartition('_')[0]}_0123456789ab")
    with pytest.raises(ValueError, match=r"2 prepared versions of gta5.*_0123456789ab.*source_root"):
        open_split(config)


def test_concurrent_preparations_make_each_record_once(config, tmp_path, monkeypatch):
    trees.write_gta5(tmp_path / "source", count=6)
    made, make = [], records.make_records

    def counting(pair, form):
        made.append(pair.name)
        return make(pair, form)

    monkeypatch.setattr(records, "make_records", counting)
    builders = []
    threads = [threading.Thread(target=lambda: builders.append(open_split(config))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(read(builder)) for builder in builders] == [6] * 3
    samples = len(range(0, 6, -(-6 // prepare._SAMPLES)))
    assert len(made) == 6 + samples


def test_labels_of_several_sizes_are_evaluated_one_by_one(config, tmp_path):
    tree = trees.write_cityscapes(tmp_path / "target", "val", 2)
    image, label = trees.scene("cityscapes", 7, (20, 40))
    tree.image_files[1].write_bytes(trees.png_bytes(image))
    tree.label_files[1].write_bytes(trees.png_bytes(label))
    found = [batch["label"].shape for batch in pipeline.evaluation_batches(config)]
    assert found == [(1, 32, 64), (1, 20, 40)]
    config.evaluation.batch = 2
    with pytest.raises(ValueError, match=r"batch is 2, but .*20x40.*expected 1.*Set --config.evaluation.batch=1"):
        pipeline.evaluation_batches(config)


def test_files_are_listed_once(config, tmp_path, monkeypatch):
    trees.write_cityscapes(tmp_path / "target", "val", 2)
    list(pipeline.evaluation_batches(config))
    monkeypatch.setattr(file_access, "list_files", None)
    assert len(list(pipeline.evaluation_batches(config))) == 2


@pytest.mark.parametrize(
    ("data_set", "size"),
    [("gta5", (1052, 1914)), ("gta5", (1046, 1914)), ("synthia", (960, 1280)), ("cityscapes", (1024, 2048))],
)
def test_full_size_records_equal_the_files_bit_for_bit(config, data_set, size, tmp_path):
    domain = "target" if data_set == "cityscapes" else "source"
    tree = trees.WRITERS[data_set](tmp_path / domain, count=1, size=size)
    config.data.update({domain: data_set, f"{domain}_size": size, "full_size": True})
    split = split_reader.open_splits(config, [f"{domain}_train"])[f"{domain}_train"]
    example = split.decoder("image", "label")(split.fetch(np.array([0]))[0])
    np.testing.assert_array_equal(example["image"], tree.images[0])
    np.testing.assert_array_equal(example["label"][..., 0], by_hand(data_set, tree.labels[0]))


def test_own_class_255_is_not_confused_with_missing_labels(config, tmp_path):
    """Images without a label are stored with 255 in every pixel; no stream with labels may contain them."""
    trees.write_custom(tmp_path / "source")
    tree = trees.write_custom(tmp_path / "target", count=6)
    trees.write_custom(tmp_path / "target", "more", "more masks", count=2)
    for place, (file, label) in enumerate(zip(tree.label_files, tree.labels, strict=True)):
        mask = np.where(label == 0, 255, 0).astype(np.uint8)
        mask[0, 0] = place  # Makes each label unique; belongs to no class.
        file.write_bytes(trees.png_bytes(mask))
    for place in (0, 3):
        tree.label_files[place].unlink()
    config.data.update(source="custom", target="custom", classes="custom", held_out=2)
    config.data.update(source_size=SIZES["custom"], target_size=SIZES["custom"])
    config.data.custom.update(names=("rest", "road"), palette=((0, 0, 0), (255, 255, 255)))
    for domain in ("source", "target"):
        config.data.custom[f"{domain}_ids"] = ((0, "rest"), (255, "road"))
    config.data.custom.update(validation_images="more", validation_labels="more masks")
    (tmp_path / "target" / "more masks" / "photo 1.png").unlink()
    config.data.batch.update(source=1, labelled=2, unlabelled=6)
    config.data.rare_class_temperature = 0.01
    held_out = [str(batch["name"][0]) for batch in pipeline.held_out_batches(config)]
    validation = [str(batch["name"][0]) for batch in pipeline.evaluation_batches(config)]
    labelled = [example.tobytes() for example in next(pipeline.training_batches(config))["labelled"]["image"]]
    kept = set(tree.names) - {tree.names[0], tree.names[3]}
    assert set(held_out) < kept
    assert validation == ["photo 0"]
    assert set(labelled) <= {
        image.tobytes() for name, image in zip(tree.names, tree.images, strict=True) if name in kept
    }
    for batch in [*pipeline.held_out_batches(config), next(pipeline.training_batches(config))["labelled"]]:
        assert not (batch["label"] == 1).all(axis=(1, 2)).any()
