"""Files that are no regular files, links that lead nowhere or in a circle, and zip files that are cut off."""

import os
import zipfile

import numpy as np
import pytest

from configs import gta5
from data.checking import check
from data.preparation import location
from data.raw import file_access
from data.raw.faults import BadFileError
from data.sampling import labelled_subset
from tests.helpers import trees
from tests.helpers.data_check import run_check


def fault_of(function, *arguments):
    with pytest.raises(BadFileError) as error:
        function(*arguments)
    return str(error.value)


def test_only_regular_files_are_read(tmp_path):
    """A named pipe without a writer would be waited for without end."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    (tmp_path / "whole.png").write_bytes(b"content")
    for name, expected in {
        "pipe.png": "unreadable: expected a regular file, found a named pipe.",
        "circle.png": "unreadable: it cannot be read: [Errno 40] Too many levels of symbolic links",
        "": "unreadable: expected a regular file, found a folder.",
    }.items():
        assert fault_of(file_access.read_bytes, tmp_path / name).startswith(f"{tmp_path / name}: {expected}")
    sizes = {file.name: state.size for file, state in file_access.list_files(tmp_path, deep=True).items()}
    assert sizes == {"circle.png": 0, "pipe.png": 0, "whole.png": 7}


def test_folder_that_holds_itself_by_a_link_is_named(tmp_path):
    (tmp_path / "city" / "inner").mkdir(parents=True)
    (tmp_path / "city" / "image.png").write_bytes(b"content")
    (tmp_path / "city" / "beside").symlink_to(tmp_path / "city" / "inner")
    assert list(file_access.list_files(tmp_path, deep=True)) == [tmp_path / "city" / "image.png"]
    link = tmp_path / "city" / "inner" / "again"
    link.symlink_to(tmp_path / "city")
    text = fault_of(lambda: file_access.list_files(tmp_path / "city", deep=True))
    assert text.endswith("inner/again: unreadable: it is a link to a folder that holds it; remove the link.")


@pytest.fixture
def config(tmp_path):
    """GTA5 and Cityscapes below `tmp_path`, nothing prepared."""
    config = gta5.get_config("joint")
    config.data.update(
        source_root=str(tmp_path / "source"),
        target_root=str(tmp_path / "target"),
        directory=str(tmp_path / "prepared"),
        labelled_count=-1,
    )
    trees.write_gta5(tmp_path / "source")
    for split in ("train", "val"):
        trees.write_cityscapes(tmp_path / "tree", split, 3)
    return config


def refusals(config, capsys):
    """Returns what the check prints, and what training says instead of starting."""
    works, text = run_check(config, capsys)
    assert not works
    with pytest.raises(check.UnusableDataError) as error:
        check.check_before_training(config)
    return text, str(error.value)


def test_unreadable_datasets_are_not_called_missing(config, tmp_path, capsys):
    root = tmp_path / "target"
    trees.write_zip_files(tmp_path / "tree", root)
    (archive,) = root.glob("leftImg8bit*.zip")
    archive.write_bytes(archive.read_bytes()[:-200])
    cut = f"{archive}: unreadable: the zip file is cut off or damaged (File is not a zip file); download it again."
    for file in root.iterdir():
        assert zipfile.is_zipfile(file) is (file != archive)
    for text in refusals(config, capsys):
        assert f"The dataset 'cityscapes' cannot be read:\n  {cut}" in text
        assert "was not found" not in text
        assert text.count(cut) == 1

    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    config.data.target_root = str(circle)
    for text in refusals(config, capsys):
        assert f"cannot be read:\n  {circle}: unreadable: it cannot be opened: Too many levels of symbolic" in text
    config.data.target_root = str(archive)
    for text in refusals(config, capsys):
        assert f"{archive}: unreadable: expected a folder, found a regular file." in text
    config.data.target_root = str(tmp_path / "nowhere")
    with pytest.raises(location.MissingDataError, match="was not found"):
        location.locate_split(config.data, "target_train")


def test_list_of_labelled_images_may_not_be_a_pipe(config, tmp_path):
    os.mkfifo(tmp_path / "list.txt")
    config.data.labelled_list = str(tmp_path / "list.txt")
    with pytest.raises(ValueError, match=r"data\.labelled_list: expected a text file, found that .* is a named pipe"):
        labelled_subset.choose(config.data, ["a"], np.array([True]))
