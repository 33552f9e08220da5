"""From miniature datasets on disk to scores and prediction files, by `main.py` alone."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling import args as official_arguments
from cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling import evaluateImgLists
from PIL import Image

from configs import custom as custom_configuration
from data.classes import class_table
from data.datasets.registry import SPECS
from tests.helpers import file_faults, quick_compilation, trees

ROOT = Path(__file__).parents[2]


@pytest.fixture
def main(tmp_path):
    """Returns a function that runs `main.py` on the trees in `tmp_path`, and gives its standard output."""

    def run(config, *arguments, expected=0):
        folders = {"directory": "prepared", "source_root": "source", "target_root": "target"}
        command = [sys.executable, "main.py", f"--config={config}", f"--workdir={tmp_path / 'run'}"]
        command += [f"--config.data.{key}={tmp_path / folder}" for key, folder in folders.items()]
        result = subprocess.run(
            [*command, *arguments], cwd=ROOT, env=quick_compilation.environment(), capture_output=True, text=True
        )
        assert result.returncode == expected, result.stderr
        return result.stdout

    return run


def steps_of(folder):
    """Returns the steps whose losses were logged, in the order of the log."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if any("segmentation_" in key for key in line)]


def official_scores(tree, folder, classes):
    """Returns class -> IoU by the official scripts, for the predictions in `folder`.

    Of Cityscapes' classes that are not in `classes`, the pixels are ignored, as the scores of SYNTHIA's sixteen do;
    the official scripts would count them as false.
    """
    kept = [raw_id for raw_id, name in SPECS["cityscapes"].labels.raw_ids.items() if name in class_table(classes).names]
    truths, predictions = [], []
    for name, label in zip(tree.names, tree.labels, strict=True):
        file = folder / "truth" / f"{Path(name).name}_gtFine_labelIds.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(np.where(np.isin(label, kept), label, 0).astype(np.uint8)).save(file)
        truths.append(str(file))
        predictions.append(str(folder / "predictions" / f"{Path(name).name}.png"))
    arguments = copy.copy(official_arguments)
    arguments.quiet, arguments.JSONOutput, arguments.evalInstLevelScore = True, False, False
    scores = evaluateImgLists(predictions, truths, arguments)["classScores"]
    return {name: scores[name] for name in class_table(classes).names}


@pytest.mark.parametrize(("source", "classes"), [("gta5", "cityscapes19"), ("synthia", "synthia16")])
def test_street_scenes(source, classes, main, tmp_path):
    config, run = f"configs/{source}.py:smoke", tmp_path / "run"
    tree = trees.WRITERS[source](tmp_path / "source", count=6)
    rejected = file_faults.plant("train ids", tree, 3)
    train = trees.write_cityscapes(tmp_path / "target", "train", 6)
    validation = trees.write_cityscapes(tmp_path / "target", "val", 3)
    test = trees.write_cityscapes(tmp_path / "target", "test", 2)
    names = tmp_path / "labelled.txt"
    names.write_text("\n".join(train.names[1:5]))
    listed = f"--config.data.labelled_list={names}"
    if source == "gta5":  # What does not depend on the source is tried with one.
        main(config, expected=1)  # The official lists name other target images.
        assert not (tmp_path / "prepared").exists()
        text = main(config, listed, "--mode=check")
        assert f"{rejected.file}: {rejected.kind}" in text
        assert "4 images; 4 are there" in text
        main(config, listed, "--config.steps=3", "--config.data.held_out=1")
        assert steps_of(run) == [1, 2, 3]
    main(config, listed, "--config.steps=5", "--config.data.held_out=1")
    assert steps_of(run) == [1, 2, 3, 4, 5]
    (left_out,) = (tmp_path / "prepared").rglob(f"{source}/**/rejected.txt")
    assert left_out.read_text().startswith(f"{rejected.file}: {rejected.kind}")
    main(config, listed, "--mode=eval")
    report = json.loads((run / "eval.json").read_text())
    assert report["step"] == steps_of(run)[-1]
    assert report["labelled"]["images"] == 4
    assert report["class_iou"] == official_scores(validation, run, classes)
    assert sum(score > 0 for score in report["class_iou"].values()) > 0
    if source == "gta5":  # The test images do not depend on the source.
        main(config, listed, "--mode=eval", "--config.evaluation.split=test", "--config.evaluation.test_size=(32,64)")
        written = sorted((run / "predictions_test").iterdir())
        assert [file.stem for file in written] == [Path(name).name for name in test.names]
        for file in written:
            prediction = np.asarray(Image.open(file))
            assert prediction.shape == (32, 64)
            assert set(np.unique(prediction)) <= set(SPECS["cityscapes"].labels.raw_ids)


# Of two classes, one is 255 in the masks, the number that elsewhere marks what is ignored. Those of the source are
# binary, with three channels of 0 and 1 in the files.
TWO = {
    "names": ("background", "polyp"),
    "palette": ((0, 0, 0), (255, 255, 255)),
    "source_ids": ((0, "background"), (255, "polyp")),
    "target_ids": ((1, "background"), (255, "polyp")),
    "source_encoding": "binary",
}
EXAMPLE = custom_configuration.get_config().data.custom
FIVE = {key: EXAMPLE[key] for key in TWO}


@pytest.mark.parametrize("own", [TWO, FIVE], ids=["two classes", "five classes"])
def test_own_data(own, main, tmp_path):
    folders = {"source_train": "source/images", "target_train": "target/train/images"}
    folders["target_validation"] = "target/validation/images"
    random = np.random.default_rng(0)
    for part, folder in folders.items():
        domain = part.partition("_")[0]
        binary = own.get(f"{domain}_encoding") == "binary"
        ids = [0, 1] if binary else [*(raw_id for raw_id, _ in own[f"{domain}_ids"]), 99]
        for number in range(5):
            label = random.choice(np.array(ids, np.uint8), (5, 8)).repeat(4, 0).repeat(4, 1)
            image = np.stack([label, 255 - label, label // 2], -1)
            file = tmp_path / folder / f"photo_{number}.png"
            label = np.stack([label] * 3, -1) if binary else label
            for path, pixels in ((file, image), (file.parent.parent / "labels" / file.name, label)):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(trees.png_bytes(pixels))
    damaged = tmp_path / "target" / "validation" / "labels" / "photo_4.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    for number in (0, 3):
        (tmp_path / "target" / "train" / "labels" / f"photo_{number}.png").unlink()
    flags = [f"--config.data.custom.{key}={value}" for key, value in own.items()]
    config = "configs/custom.py:joint,smoke"
    if own is FIVE:
        assert "images: 5, of which 3 have a label" in main(config, *flags, "--mode=check")
    main(config, *flags, "--config.steps=3", "--config.data.held_out=1")
    report = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert set(report["class_iou"]) == set(own["names"])
    assert report["labelled"]["images"] == 3
    assert report["labelled"]["held_out"] == 1
    text = main(config, *flags, "--mode=eval")
    assert "Images left out of the evaluation because their files cannot be used: 1;" in text
    report = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert report["step"] == 3
    assert (report["images"], report["images_left_out"]) == (4, 1)
    assert report["class_iou"] == pytest.approx(own_scores(own, tmp_path))


def own_scores(own, folder):
    """Returns class -> IoU of the written predictions, counted pixel by pixel."""
    counts = {name: [0, 0] for name in own["names"]}
    for file in (folder / "run" / "predictions").iterdir():
        predicted = np.asarray(Image.open(file))
        label = np.asarray(Image.open(folder / "target" / "validation" / "labels" / file.name))
        valid = np.isin(label, [raw_id for raw_id, _ in own["target_ids"]])
        for name in own["names"]:
            raw_ids = [raw_id for raw_id, of in own["target_ids"] if of == name]
            true, found = np.isin(label, raw_ids), predicted == min(raw_ids)
            counts[name][0] += (true & found).sum()
            counts[name][1] += (valid & (true | found)).sum()
    return {name: both / either for name, (both, either) in counts.items()}
