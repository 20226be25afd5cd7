"""What the Hub's viewer wants of a dataset, checked offline, before anything is uploaded, by the packages it uses."""

import json
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from synth.dataset.shards import shard_names
from synth.dataset.store import Store
from synth.errors import DatasetError
from synth.state import reading

_MAX_ROW_GROUP_BYTES = 300_000_000
"""The viewer reads whole row groups, and none that is larger than this."""
_CARD_REMEDY = "call the command that made the set again, and it writes the card anew"


def check_viewable(folder: Path) -> None:
    """Refuse a dataset that the Hub's viewer would not show.

    Its card must parse and say which shards belong to which split, as `datasets` reads it; all shards of a folder
    must have one set of features, the ones that their columns have; and no row group may be too large.

    Raises:
        DatasetError: for anything else, with the file.
    """
    store = Store(folder)
    card = folder / "README.md"
    patterns = _patterns_of(card)
    for place in ("data", "rejects"):
        shards = shard_names(store, place)
        known = None
        for name in shards:
            if not any(fnmatch(name, pattern) for pattern in patterns):
                raise DatasetError(f"{card} names no configuration for {name}: {_CARD_REMEDY}")
            features = _features_of(folder / name)
            if known is not None and features != known:
                raise DatasetError(f"{folder / name} has other columns than the shards before it: {_CARD_REMEDY}")
            known = features


def _patterns_of(card: Path) -> set[str]:
    """The patterns of all configurations that a card names."""
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard

    with reading(card, DatasetError, _CARD_REMEDY):
        data = DatasetCard(card.read_text(encoding="utf-8")).data
        configs = MetadataConfigs.from_dataset_card_data(data)
        _check_sizes(data.get("size_categories"))
        return {pattern for config in configs.values() for pattern in _flat(config.get("data_files", []))}


def _flat(data_files: Any) -> Iterator[str]:
    """The patterns of one configuration, in any of the forms that a card may have."""
    if isinstance(data_files, str):
        yield data_files
    elif isinstance(data_files, dict):
        yield from _flat(data_files["path"])
    else:
        for item in data_files:
            yield from _flat(item)


def _check_sizes(given: object) -> None:
    from importlib.resources import files

    known = json.loads(files("datasets.utils.resources").joinpath("size_categories.json").read_text("utf-8"))
    for size in given if isinstance(given, list) else []:
        if size not in known:
            raise ValueError(f"no size category {size!r}")


def _features_of(shard: Path) -> object:
    """A shard's features, which `datasets` keeps in its metadata and its columns must have."""
    from datasets import Features

    remedy = "delete it, and call the command that made the set again"
    with reading(shard, DatasetError, remedy), pq.ParquetFile(shard) as file:
        schema = file.schema_arrow
        told = (schema.metadata or {}).get(b"huggingface")
        if told is None:
            raise ValueError("it lacks the features of `datasets`, without which an image is a struct")
        features = Features.from_dict(json.loads(told)["info"]["features"])
        if not features.arrow_schema.equals(schema):
            raise ValueError("its features are not those of its columns")
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).total_byte_size
            if size > _MAX_ROW_GROUP_BYTES:
                raise ValueError(f"a row group has {size} bytes, and the viewer reads {_MAX_ROW_GROUP_BYTES}")
        return features
