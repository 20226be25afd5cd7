"""`datasets` opens a set at any moment: while it is painted or imported, with rejects and with unfinished files."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_datasets import PICKY, painted, picked, scenes
from small_photos import imported, write_photos
from tqdm import tqdm

from synth.dataset.building import DatasetBuilder, synthesize
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.store import Store
from synth.errors import DatasetError
from synth.teacher.teacher import Teacher

__all__ = ["painted", "picked"]  # fixtures


def loaded(folder: Path, cache: Path, name: str = "default") -> Any:
    return datasets.load_dataset(str(folder), name, split="train", cache_dir=str(cache))


def test_a_set_that_is_being_painted_opens(tiny_teacher: Teacher, tmp_path: Path) -> None:
    settings = scenes(count=10, **PICKY)
    out = tmp_path / "set"
    for turn, number in enumerate((2, 0)):
        with tqdm(disable=True) as bar:
            DatasetBuilder(tiny_teacher, settings, out).paint_shard(number, bar)
        (out / "data" / ".train-00001.parquet.0123456789abcdef.part").write_bytes(b"half a shard")
        assert (out / "rejects").exists()
        rows = loaded(out, tmp_path / f"cache{turn}")
        assert sorted(rows["index"][:]) == [[6, 7, 8], [0, 1, 2, 6, 7, 8]][turn]
        assert rows[0]["image"].size == (64, 64) and "reason" not in rows.column_names
        assert set(loaded(out, tmp_path / f"cache{turn}", "rejects")["reason"][:]) <= {"red", "unlucky"}
    assert "# Unfinished" in (out / "README.md").read_text()
    synthesize(tiny_teacher, settings, out, progress=False)
    assert "# 10 painted scenes" in (out / "README.md").read_text()


def test_workers_leave_a_finished_card(tiny_teacher: Teacher, tmp_path: Path) -> None:
    """Though the process that finishes the set has painted nothing itself."""
    builder = DatasetBuilder(tiny_teacher, scenes(count=3), tmp_path)
    with tqdm(disable=True) as bar:
        builder.paint_shard(0, bar)
    builder.finish(0.0)
    assert "# 3 painted scenes" in (tmp_path / "README.md").read_text()


def test_an_import_that_was_killed_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_photos(tmp_path / "photos", *(f"{number}.png" for number in range(5)))
    (source / "0.txt").write_text("a sofa")
    (source / "00.png").write_text("broken")
    write = Store.write

    def killed(self: Store, name: str, content: bytes) -> None:
        if name == "data/train-00001.parquet":
            raise KeyboardInterrupt
        write(self, name, content)

    monkeypatch.setattr(Store, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        imported(source, tmp_path / "set")
    rows = loaded(tmp_path / "set", tmp_path / "cache")
    assert rows["source"][:] == ["0.png", "1.png", "2.png"] and rows["prompt"][0] == "a sofa"
    monkeypatch.undo()
    imported(source, tmp_path / "set")
    assert loaded(tmp_path / "set", tmp_path / "cache2").num_rows == 5
    assert loaded(tmp_path / "set", tmp_path / "cache2", "rejects")["prompt"][:] == ["00.png"]


def test_painting_into_somebodys_folder_is_refused(tiny_teacher: Teacher, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# My photographs")
    with pytest.raises(DatasetError, match=r"its README.md would be overwritten: choose another --out"):
        synthesize(tiny_teacher, scenes(), tmp_path, progress=False)
    assert (tmp_path / "README.md").read_text() == "# My photographs"


def with_column(folder: Path, name: str, values: dict[int, str]) -> None:
    """Change texts of the first shard as a user would with pyarrow, who keeps what is in the schema."""
    path = folder / "data" / "train-00000.parquet"
    table = pq.read_table(path)
    column = [values.get(row, value) for row, value in enumerate(table[name].to_pylist())]
    place = table.schema.get_field_index(name)
    changed = table.set_column(place, table.schema.field(name), pa.array(column, pa.string()))
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)


def test_a_painted_set_keeps_its_fingerprint(painted: Path, picked: Path) -> None:
    """That of its pixels, with attempts that were rejected too: trainings of older sets go on."""
    for folder in (painted, picked):
        images = ImageDataset(folder)
        assert images.fingerprint == images.pixels_fingerprint
    assert ImageDataset(picked).fingerprint != ImageDataset(painted).fingerprint


@pytest.mark.parametrize("changed", [["prompt"], ["slot_color"], ["prompt", "slot_color"]])
def test_changed_texts_change_a_painted_set(changed: list[str], tiny_teacher: Teacher, tmp_path: Path) -> None:
    synthesize(tiny_teacher, scenes(), tmp_path, progress=False)
    before = ImageDataset(tmp_path)
    other = next(color for color in ("red", "grey") if color != before.slots[1]["color"])
    prompt = before.prompts[1].replace(before.slots[1]["color"], other).replace("an ", "a ")
    texts = {"prompt": prompt, "slot_color": other}
    for name in changed:
        with_column(tmp_path, name, {1: texts[name]})
    after = ImageDataset(tmp_path)
    assert after.pixels_fingerprint == before.pixels_fingerprint
    assert after.fingerprint != before.fingerprint
    assert np.array_equal(after.image(1), before.image(1))


def test_fingerprints_of_parts_differ(painted: Path) -> None:
    images = ImageDataset(painted)
    parts = [images, images.first(3), images.without({0}), images.without({1}), images.without({0, 1})]
    assert len({part.fingerprint for part in parts}) == len({part.pixels_fingerprint for part in parts}) == 5
    without = images.without({0, 3})
    assert len(without) == 5 and without.prompts[0] == images.prompts[1] and without.names[2] == "scene 4"
    assert np.array_equal(without.image(2), images.image(4))
