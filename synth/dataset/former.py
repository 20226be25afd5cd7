"""What a set of photographs holds before an import: an import writes what differs, and reuses encoded images."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from synth.dataset.shards import Row, ShardImages, read_rows, refuse_another, shard_name, shard_names
from synth.dataset.store import Store
from synth.errors import DatasetError
from synth.state import parse_json, reading

_MAX_RETAINED = 4  # shards' worth of images in memory, whose own shards are overwritten already
_TEXTS = ["seed", "source", "prompt"]
_REJECTS = ["prompt", "reason", "index"]


class _Origin(TypedDict):
    """What import.json holds."""

    source: Annotated[str, Field(max_length=64)]


class Former:
    """The set as it is before an import.

    Attributes:
        place: a digest of the source that it was made of; "" if that is unknown.

    Raises:
        DatasetError: if a shard is damaged, or belongs to another dataset.
    """

    def __init__(self, store: Store, identity: Row) -> None:
        self._store = store
        self._images = ShardImages(store)
        self._shards: dict[str, list[Row]] = {}
        for name in shard_names(store):
            refuse_another(store, name, identity)
            self._shards[name] = read_rows(store, name, _TEXTS)
        rejects = store.names("rejects/train-*.parquet")
        self._rejects = {name: read_rows(store, name, _REJECTS) for name in rejects}
        self._prompts: dict[int, str] = {}
        self._places: dict[int, tuple[str, int]] = {}  # hash of a file -> its shard, and its row there
        for name, rows in self._shards.items():
            for number, row in enumerate(rows):
                self._places[row["seed"]] = name, number
                self._prompts[row["seed"]] = row["prompt"]
        self._retained: dict[int, bytes] = {}
        self._used: set[int] = set()
        self.place = ""
        if store.exists("import.json"):
            with reading(f"{store}/import.json", DatasetError, "delete it, and import again"):
                self.place = parse_json(store.read("import.json"), _Origin)["source"]

    def __len__(self) -> int:
        return len(self._prompts)

    def __contains__(self, seed: int) -> bool:
        """Whether the image of a file is here still: one that was overwritten may be gone."""
        return seed in self._places or seed in self._retained

    def prompt(self, seed: int) -> str | None:
        """Return the caption that the image of a file had; None if the set did not hold it."""
        return self._prompts.get(seed)

    def image(self, seed: int) -> dict[str, bytes]:
        """Return the encoded image of a file that the set holds."""
        self._used.add(seed)
        if seed in self._retained:
            return {"bytes": self._retained.pop(seed)}
        name, row = self._places[seed]
        return {"bytes": self._images.content(name, row)}

    def has_rows(self, number: int, rows: Sequence[Row]) -> bool:
        """Return whether a shard has these rows already."""
        there = self._shards.get(shard_name(number), [])
        return _values(rows, _TEXTS) == _values(there, _TEXTS)

    def has_rejects(self, number: int, rejects: Sequence[Row]) -> bool:
        """Return whether a shard has these rejects already."""
        there = self._rejects.get(shard_name(number, "rejects"), [])
        return [[row[key] for key in _REJECTS] for row in rejects] == [
            [row[key] for key in _REJECTS] for row in there
        ]

    def retain(self, number: int) -> None:
        """Take the images that may be needed still out of a shard that is about to be overwritten."""
        name = shard_name(number)
        rows = self._shards.get(name, [])
        for place, row in enumerate(rows):
            seed = row["seed"]
            del self._places[seed]
            if seed not in self._used:
                self._retained[seed] = self._images.content(name, place)
        # Beyond this the images are made again from their files: memory matters more than time.
        for seed in list(self._retained)[: -_MAX_RETAINED * max(1, len(rows))]:
            del self._retained[seed]

    def from_number(self, number: int) -> list[str]:
        """Return the files of all shards from a number on, in an order whose reverse leaves no hole."""
        ends = [*self._shards, *self._rejects, *self._store.names("preview/train-*.html")]
        return [name for name in ends if int(name.rpartition("-")[2].partition(".")[0]) >= number]


def _values(rows: Sequence[Row], keys: Sequence[str]) -> list[list[Any]]:
    return [[row[key] for key in keys] for row in rows]
