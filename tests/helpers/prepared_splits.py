"""Prepares splits of miniature data sets and reads their records."""

from data.preparation import builder as prepared


def open_split(config, name="gta5", domain="source", split="train", **options):
    return prepared.open_builder(prepared.Wanted(name, config.data, domain, split, **options))


def read(builder):
    """Returns name -> record, as TFDS reads it."""
    split = next(iter(builder.info.splits))
    return {example["name"].decode(): example for example in builder.as_data_source(split)}
