"""A second import sees what was added, removed, replaced, captioned anew or vetoed, and touches nothing else."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_photos import captions, files, imported, pixels, png, rejects, write_photos

from synth.dataset.former import Former
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.importing import content_hash
from synth.errors import DatasetError

NAMES = [f"{number:02d}.png" for number in range(8)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Eight photographs, the half with captions: three shards."""
    folder = write_photos(tmp_path / "photos", *NAMES)
    for name in NAMES[::2]:
        (folder / name).with_suffix(".txt").write_text(f"caption of {name}")
    return folder


def times(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted((out / "data").iterdir())}


def check(source: Path, out: Path) -> None:
    """A set that was brought up to date is the set of a first import."""
    imported(source, out.parent / "fresh")
    assert files(out) == files(out.parent / "fresh")
    shutil.rmtree(out.parent / "fresh")


def test_nothing_new_writes_nothing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    imported(source, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.name != "import.json"}
    made = imported(source, out)
    assert (made.num_images, made.num_new, made.num_removed, made.num_recaptioned) == (8, 0, 0, 0)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.name != "import.json"}


def test_corrected_captions_are_seen(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    imported(source, out)
    first, before = ImageDataset(out), times(out)
    (source / "04.txt").write_text("corrected")
    (source / "05.txt").write_text("added")
    made = imported(source, out)
    assert made.num_recaptioned == 2
    second, after = ImageDataset(out), times(out)
    assert [a != b for a, b in zip(first.prompts, second.prompts, strict=True)] == [n in (4, 5) for n in range(8)]
    assert second.prompts[4:6] == ["corrected", "added"]
    assert [before[name] == after[name] for name in before] == [True, False, True]
    assert first.fingerprint != second.fingerprint and first.pixels_fingerprint == second.pixels_fingerprint
    assert "corrected" in (out / "preview" / "train-00001.html").read_text()
    check(source, out)


def test_a_replaced_file_is_seen(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    imported(source, out)
    first = ImageDataset(out)
    (source / "03.png").write_bytes(png("another photograph"))
    made = imported(source, out)
    assert (made.num_new, made.num_removed) == (1, 1)
    second = ImageDataset(out)
    assert np.array_equal(second.image(3), pixels(png("another photograph")))
    assert all(np.array_equal(first.image(n), second.image(n)) for n in range(8) if n != 3)
    assert first.pixels_fingerprint != second.pixels_fingerprint
    check(source, out)


@pytest.mark.parametrize("name, rewritten", [("99.png", 2), ("035.png", 1), ("00.jpg", 0)])
def test_one_photograph_more(name: str, rewritten: int, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    imported(source, out)
    before = times(out)
    write_photos(source, name)
    made = imported(source, out)
    assert (made.num_images, made.num_new, made.num_removed) == (9, 1, 0)
    assert list(captions(out)) == sorted([*NAMES, name])
    after = times(out)
    assert [number for number, shard in enumerate(before) if before[shard] != after[shard]] == list(
        range(rewritten, 3)
    )
    check(source, out)


@pytest.mark.parametrize("gone", [["07.png"], ["00.png"], NAMES[1:], ["02.png", "03.png"]])
def test_removed_photographs_leave(gone: list[str], source: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    imported(source, out)
    for name in gone:
        (source / name).unlink()
    made = imported(source, out)
    assert made.num_removed == len(gone)
    assert list(captions(out)) == [name for name in NAMES if name not in gone]
    check(source, out)


def test_any_change_gives_the_set_of_a_first_import(tmp_path: Path) -> None:
    """Whatever is added, removed, renamed, replaced, captioned, damaged or vetoed, in any mixture."""
    draws = random.Random(7)
    source, out = write_photos(tmp_path / "photos", *NAMES), tmp_path / "set"
    imported(source, out)
    for turn in range(25):
        for _ in range(draws.randint(1, 5)):
            name = f"{draws.choice(['', 'sub/'])}{draws.randint(0, 30):02d}.png"
            file = source / name
            action = draws.choice(["add", "add", "remove", "rename", "caption", "damage", "same"])
            if action == "add":
                write_photos(source, name)
                file.write_bytes(png(f"{name} {draws.randint(0, 2)}"))
            elif action == "caption" and file.exists():
                file.with_suffix(".txt").write_text(f"turn {turn}")
            elif action == "damage":
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(b"broken")
            elif action == "remove":
                file.unlink(missing_ok=True)
            elif action == "rename" and file.exists():
                file.rename(source / f"{draws.randint(40, 60)}.png")
            elif action == "same":
                (source / "again.png").write_bytes(png(NAMES[draws.randint(0, 7)]))
        if not draws.randint(0, 4) and (out / "data").exists():
            (out / "data" / "train-00001.parquet").unlink(missing_ok=True)  # as a killed import leaves it
        imported(source, out)
        check(source, out)


def test_unchanged_images_are_not_made_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though every later shard is overwritten, and more images wait for their place than one shard holds."""
    out = tmp_path / "set"
    imported(source, out)
    from synth.dataset import importing

    made = []
    prepared = importing.prepared
    monkeypatch.setattr(
        importing, "prepared", lambda content, settings: made.append(1) or prepared(content, settings)
    )
    write_photos(source, *(f"000{number}.png" for number in range(5)))
    imported(source, out)
    assert len(made) == 5
    monkeypatch.undo()
    check(source, out)


def test_memory_is_bounded_not_the_result(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synth.dataset.former._MAX_RETAINED", 1)
    out = tmp_path / "set"
    imported(source, out)
    write_photos(source, *(f"000{number}.png" for number in range(9)))
    most = []
    retain = Former.retain
    monkeypatch.setattr(Former, "retain", lambda self, n: (retain(self, n), most.append(len(self._retained)))[0])
    imported(source, out)
    assert 0 < max(most) <= 3
    check(source, out)


def test_a_veto_leaves_a_photograph_out(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    imported(source, out)
    page = (out / "preview" / "train-00001.html").read_text()
    seed = content_hash((source / "04.png").read_bytes())
    assert f'data-seed="{seed}" title="04.png: caption of 04.png"' in page
    assert "run the same <code>distillery import-photos</code> again" in page
    (out / "exclude-00001.txt").write_text(f"{seed}  # 04.png\n")
    made = imported(source, out)
    assert list(captions(out)) == [name for name in NAMES if name != "04.png"] and made.num_removed == 1
    assert rejects(out) == {"04.png": "vetoed in the gallery"}
    (out / "exclude-00001.txt").unlink()
    imported(source, out)
    assert list(captions(out)) == NAMES
    check(source, out)


def test_the_gallery_index_shows_a_grid(source: Path, tmp_path: Path) -> None:
    imported(source, tmp_path / "set")
    index = (tmp_path / "set" / "preview.html").read_text()
    assert "<h1>Photographs</h1>" in index and 'src="grid.png"' in index
    assert (tmp_path / "set" / "grid.png").read_bytes().startswith(b"\x89PNG")
    assert "![a sample](grid.png)" in (tmp_path / "set" / "README.md").read_text()


def test_another_folder_is_refused_a_moved_one_is_not(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    imported(source, out)
    before = files(out)
    others = tmp_path / "others"
    others.mkdir()
    for name in NAMES:  # the same names: cameras count from one
        (others / name).write_bytes(png(f"other {name}"))
    with pytest.raises(DatasetError, match="holds 8 photographs, none of which is in this source: choose another"):
        imported(others, out)
    assert files(out) == before
    source.rename(tmp_path / "moved")
    assert imported(tmp_path / "moved", out).num_new == 0
    for name in NAMES:  # at the known place, all may be replaced at once
        (tmp_path / "moved" / name).write_bytes(png(f"edited {name}"))
    assert imported(tmp_path / "moved", out).num_new == 8
    assert str(tmp_path) not in (out / "import.json").read_text()


def test_the_set_may_lie_inside_its_source(source: Path, tmp_path: Path) -> None:
    for _ in range(2):
        made = imported(source, source / "made" / "set")
        assert list(captions(source / "made" / "set")) == NAMES and made.num_rejected == 0
    with pytest.raises(DatasetError, match="is the folder of the photographs themselves"):
        imported(source, source)


@pytest.mark.parametrize("name", ["README.md", "grid.png", "preview.html"])
def test_files_of_somebody_are_not_overwritten(name: str, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(DatasetError, match=f"its {name} would be overwritten: choose another --out"):
        imported(source, out)
    assert [path.name for path in out.iterdir()] == [name] and (out / name).read_text() == "mine"


def test_nothing_usable_keeps_the_set(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    imported(source, out)
    before = files(out)
    for path in source.iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=r"no image that can be used \(no files\)"):
        imported(source, out)
    assert files(out) == before


def test_shards_tell_whose_they_are(source: Path, tmp_path: Path) -> None:
    imported(source, tmp_path / "set")
    with pytest.raises(DatasetError, match="image_size is 8 there and 16 here"):
        imported(source, tmp_path / "set", image_size=16)
    identity = json.loads(pq.read_schema(tmp_path / "set" / "data" / "train-00000.parquet").metadata[b"distillery"])
    assert set(identity) == {"image_size", "fit", "min_side", "max_aspect_ratio", "shard_size", "import_version"}
