"""Runs the check and keeps what it prints."""

from data.checking import check


def told(config, capsys, **options):
    """Returns whether training would work, and what was printed."""
    works = check.check(config, **options)
    return works, capsys.readouterr().out
