"""Starting a run does no work twice."""

import collections

from data import pipeline
from data.checking import check
from data.raw import file_access


def test_each_folder_is_listed_once(config, clean, monkeypatch):
    """Each folder is listed once, from the check before training to the last evaluation batch."""
    listed, list_files = collections.Counter(), file_access.list_files

    def counting(folder, **options):
        listed[folder] += 1
        return list_files(folder, **options)

    monkeypatch.setattr(file_access, "list_files", counting)
    locations = check.check_before_training(config)
    pipeline.prepare(config, locations)
    pipeline.labelled_list(config)
    next(pipeline.training_batches(config))
    pipeline.names_of_step(config, 3)
    list(pipeline.evaluation_batches(config))
    assert len(listed) == 6
    assert set(listed.values()) == {1}
