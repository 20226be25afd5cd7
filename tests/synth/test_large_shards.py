"""Shards beyond what one array of Arrow's holds, and datasets of more shards than five digits count."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_datasets import painted
from small_photos import imported, write_photos

from synth.dataset import shards
from synth.dataset.former import Former
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.shards import ShardImages, encoded, read_rows, shard_name, shard_names, write_shard
from synth.dataset.store import Store
from synth.errors import DatasetError

__all__ = ["painted"]  # a fixture

COLUMNS = {"image": bytes, "prompt": str, "seed": int, "source": str, "index": int}


def rows(first: int, num: int) -> list[shards.Row]:
    """Small images whose grey value is their index."""
    images = {i: encoded(Image.new("RGB", (8, 8), (i, i, i)), f"{i}.png") for i in range(first, first + num)}
    return [
        {"image": image, "prompt": "a sofa", "seed": 7 + i, "source": "", "index": i} for i, image in images.items()
    ]


def after_2_gib(rows_of_a_shard: list[shards.Row]) -> pa.Table:
    """A table of `image` that begins with 2.2 GB, all of them the same 20 MB of memory, and ends with some rows."""
    large = pa.array([{"bytes": bytes(20_000_000), "path": ""}], shards._IMAGE_TYPE)
    small = pa.array([row["image"] for row in rows_of_a_shard], shards._IMAGE_TYPE)
    return pa.table({"image": pa.chunked_array([*[large] * 110, small])})


def test_images_beyond_2_gib_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    write_shard(store, shard_name(0), rows(0, 3), COLUMNS, {})
    table = after_2_gib(rows(0, 3))
    dataset, former = ImageDataset(tmp_path), Former(store, {})
    monkeypatch.setattr(shards, "read_columns", lambda *_: table)
    dataset._places = [(shard_name(0), 110 + row) for row in range(3)]
    former._places = {7 + row: (shard_name(0), 110 + row) for row in range(3)}
    assert [int(dataset.image(index).mean()) for index in range(3)] == [0, 1, 2]
    assert [int(image.mean()) for (image,) in dataset.batches([2, 0], 1)] == [2, 0]
    assert former.image(8) == {"bytes": rows(1, 1)[0]["image"]["bytes"]}
    with pytest.raises(pa.ArrowInvalid, match="offset overflow"):
        table["image"].combine_chunks()


def test_a_group_of_rows_stays_below_300_mb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow writes a group of more than 2 GiB, and cannot read it."""
    monkeypatch.setattr(shards, "_ROW_GROUP_BYTES", 1000)
    large = [{"image": {"bytes": bytes(size), "path": ""}, "index": i} for i, size in enumerate((300, 10, 10, 10, 9))]
    columns = {"image": bytes, "index": int}
    for number, (written, groups) in enumerate([(large, [3, 2]), (large[1:], [4]), ([], [0])]):
        write_shard(Store(tmp_path), shard_name(number), written, columns, {})
        metadata = pq.read_metadata(tmp_path / shard_name(number))
        assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == groups
        assert read_rows(Store(tmp_path), shard_name(number)) == written
    write_shard(
        Store(tmp_path), shard_name(3), [{"image": {"bytes": bytes(2000), "path": ""}, "index": 0}], columns, {}
    )
    assert pq.read_metadata(tmp_path / shard_name(3)).num_row_groups == 1
    without = [{"image": None, "index": 0}]
    write_shard(Store(tmp_path), shard_name(4), without, columns, {})
    assert read_rows(Store(tmp_path), shard_name(4)) == without


def test_shards_beyond_five_digits_stay_in_order(tmp_path: Path) -> None:
    """Ten million images in shards of 50 are 200,000 shards."""
    store = Store(tmp_path)
    for index, number in enumerate((9_999, 99_999, 100_000, 100_001)):
        write_shard(store, shard_name(number), rows(index, 1), COLUMNS, {})
    assert shard_names(store) == [shard_name(number) for number in (9_999, 99_999, 100_000, 100_001)]
    assert [int(image.mean()) for image in ImageDataset(tmp_path)] == [0, 1, 2, 3]
    assert Former(store, {}).from_number(99_999) == [shard_name(number) for number in (99_999, 100_000, 100_001)]


@pytest.mark.parametrize("image", [None, {"bytes": None, "path": "/etc/hostname"}])
def test_a_row_without_an_image_is_one_line(tmp_path: Path, image: shards.Row | None) -> None:
    store = Store(tmp_path)
    table = pa.table({"image": pa.array([rows(0, 1)[0]["image"], image], shards._IMAGE_TYPE)})
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / shard_name(0))
    images = ShardImages(store)
    assert images.content(shard_name(0), 0) == rows(0, 1)[0]["image"]["bytes"]
    for row, reason in ((1, "it holds no image"), (2, "index out of bounds")):
        with pytest.raises(DatasetError) as refused:
            images.content(shard_name(0), row)
        assert str(refused.value) == (
            f"{tmp_path}/{shard_name(0)}, row {row} cannot be read ({reason}): "
            "delete the shard, and it will be made again"
        )


def test_an_import_reuses_no_image_that_is_not_there(tmp_path: Path) -> None:
    source = write_photos(tmp_path / "photos", "a.png", "b.png")
    imported(source, tmp_path / "set")
    path = tmp_path / "set" / shard_name(0)
    table = pq.read_table(path)
    without = pa.array([{"bytes": None, "path": ""}, table["image"][1].as_py()], table["image"].type)
    pq.write_table(table.set_column(0, table.schema.field("image"), without), path)
    write_photos(source, "c.png")
    with pytest.raises(DatasetError, match=r"row 0 cannot be read \(it holds no image\): delete the shard"):
        imported(source, tmp_path / "set")


def test_parts_of_a_set_keep_their_own_shard_open(painted: Path) -> None:
    whole = ImageDataset(painted)
    first = whole.first(2)
    for _ in range(2):
        assert np.array_equal(whole.image(6), ImageDataset(painted).image(6))
        assert np.array_equal(first.image(0), whole.image(0))
    assert whole._images._name == shard_name(0) != ""
    whole.image(6)
    assert (whole._images._name, first._images._name) == (shard_name(2), shard_name(0))
