"""Runs the check and captures its report."""

from data.checking import check


def run_check(config, capsys, **options):
    """Returns whether training would work, and the report."""
    works = check.check_data(config, **options)
    return works, capsys.readouterr().out
