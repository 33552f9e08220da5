"""A disk that takes no files ends every mode with a message and a code of its own."""

import errno
import os
from pathlib import Path

import pytest

import main
from configs import toy
from configs.user_error import UserError
from data.checking import check as data_check


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("file", [None, "/disk/run/events.out"])
def test_a_disk_that_takes_no_files_is_told_without_a_traceback(monkeypatch, capsys, code, file):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code), file)

    monkeypatch.setattr(main.app, "run", fail)
    with pytest.raises(SystemExit) as end:
        main.run()
    assert end.value.code == 2
    place = file or "A file, most likely below the working directory or data.directory,"
    assert capsys.readouterr().err.startswith(f"{place} cannot be written ({os.strerror(code)}). Make room")


def test_other_errors_keep_their_traceback(monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(main.app, "run", fail)
    with pytest.raises(OSError, match="Input/output error"):
        main.run()


def refuse(self, *_, **__):
    raise OSError(errno.EROFS, "Read-only file system", str(self))


def test_check_in_a_folder_that_takes_no_files_ends_before_the_data_is_read(monkeypatch, tmp_path):
    read = []
    monkeypatch.setattr(data_check, "check_data", lambda *_: read.append("data") or True)
    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(UserError, match=rf"{tmp_path}/check.txt cannot be written \(Read-only file system\)") as error:
        main.check(toy.get_config("joint"), tmp_path)
    assert (error.value.exit_code, read) == (2, [])


def test_a_report_that_cannot_be_written_is_no_fault_of_the_data(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(UserError, match=rf"could not be written to {tmp_path}/check.txt as well \(Read-only") as error:
        main.check(toy.get_config("joint"), tmp_path)
    assert error.value.exit_code == 2
    assert "Training would work with this data." in capsys.readouterr().out
