"""Sources of photographs: img2dataset's and webdataset's output, Parquet, saved datasets, the Hub; and mixtures."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_photos import captions, files, imported, pixels, png, rejects, write_photos

from synth.dataset.image_dataset import ImageDataset
from synth.dataset.importing import import_photos
from synth.errors import DatasetError
from synth.settings import PhotoSettings


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_table(path: Path, names: list[str], **columns: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": png(name), "path": None} for name in names]
    pq.write_table(pa.table({"image": images, **columns}), path)
    return path


def img2dataset(folder: Path) -> Path:
    """As img2dataset writes files: shards of an image, its text and its row, a table and statistics beside them."""
    for shard in ("00000", "00001"):
        keys = [f"{shard}{number:04d}" for number in range(3)]
        for number, key in enumerate(keys[:2]):
            write_photos(folder, f"{shard}/{key}.jpg")
            row = {"url": "http://x", "key": key, "caption": f"row of {key}", "status": "success"}
            (folder / shard / f"{key}.json").write_text(json.dumps(row))
            if number == 0:
                (folder / shard / f"{key}.txt").write_text(f"text of {key}")
        rows = [{"url": "http://x", "key": key, "caption": f"table of {key}", "status": "failed"} for key in keys]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{shard}.parquet")
        (folder / f"{shard}_stats.json").write_text(json.dumps({"count": 3}))
    write_photos(folder, "00001/000010002.jpg")
    return folder


def test_img2dataset_as_files(tmp_path: Path) -> None:
    source = img2dataset(tmp_path / "photos")
    made = imported(source, tmp_path / "set")
    assert captions(tmp_path / "set") == {
        "00000/000000000.jpg": "text of 000000000",
        "00000/000000001.jpg": "row of 000000001",
        "00001/000010000.jpg": "text of 000010000",
        "00001/000010001.jpg": "row of 000010001",
        "00001/000010002.jpg": "table of 000010002",
    }
    assert not rejects(tmp_path / "set") and made.num_captioned == 5


def test_img2dataset_as_archives(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    members = {"000000000.jpg": png("0"), "000000000.txt": b"text", "000000001.jpg": png("1")}
    write_tar(source / "00000.tar", members)
    rows = [{"url": "x", "key": f"00000000{number}", "caption": f"table {number}"} for number in range(2)]
    pq.write_table(pa.Table.from_pylist(rows), source / "00000.parquet")
    (source / "00000_stats.json").write_text("{}")
    imported(source, tmp_path / "set")
    assert captions(tmp_path / "set") == {"00000.tar/000000000.jpg": "text", "00000.tar/000000001.jpg": "table 1"}
    assert not rejects(tmp_path / "set")


@pytest.mark.parametrize("mode, name", [("w", "a.tar"), ("w:gz", "a.tar.gz"), ("w:gz", "A.TGZ")])
def test_webdataset_archives(mode: str, name: str, tmp_path: Path) -> None:
    members = {
        "sub/0001.txt": b"\xef\xbb\xbfbefore its image",
        "sub/0001.png": png("1"),
        "0002.jpg": png("2"),
        "0002.json": json.dumps({"caption": "in JSON"}).encode(),
        "0003.PNG": png("3"),
        "0003.cls": b"7",
        "../../0004.png": png("4"),
        "0005.txt": b"no image",
        "0006.jpg": b"not an image",
        "._0007.jpg": b"a Mac's",
        # A tar may hold its members in any order.
        "0003.txt": b"at the end",
    }
    archive = write_tar(tmp_path / name, members, mode)
    imported(archive, tmp_path / "set")
    assert captions(tmp_path / "set") == {
        f"{name}/sub/0001.png": "before its image",
        f"{name}/0002.jpg": "in JSON",
        f"{name}/0003.PNG": "at the end",
        f"{name}/../../0004.png": "",
    }
    assert rejects(tmp_path / "set") == {f"{name}/0005.txt": "not an image", f"{name}/0006.jpg": "not an image"}
    images = ImageDataset(tmp_path / "set")
    assert np.array_equal(images.image(1), pixels(png("2")))
    assert not (tmp_path.parent / "0004.png").exists() and not (tmp_path.parent.parent / "0004.png").exists()


def test_a_cut_archive_gives_what_is_whole(tmp_path: Path) -> None:
    source = write_photos(tmp_path / "photos", "a.png")
    whole = write_tar(tmp_path / "whole.tar", {"1.png": png("1"), "2.png": png("2")}).read_bytes()
    (source / "cut.tar").write_bytes(whole[:1200])
    (source / "no.tar").write_bytes(b"x" * 2000)
    imported(source, tmp_path / "set")
    assert set(captions(tmp_path / "set")) >= {"a.png"}
    assert "cannot be read" in rejects(tmp_path / "set")["no.tar"]
    assert any(name.startswith("cut.tar") for name in {**rejects(tmp_path / "set"), **captions(tmp_path / "set")})


def test_parquet_in_folders_with_equal_names(tmp_path: Path) -> None:
    write_table(tmp_path / "in" / "a" / "0.parquet", ["1", "2"], caption=[["", "first", "second"], None])
    write_table(tmp_path / "in" / "b" / "0.parquet", ["3"], caption=[["third"]])
    (tmp_path / "in" / "broken.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"text": ["no images"]}), tmp_path / "in" / "words.parquet")
    imported(tmp_path / "in", tmp_path / "set")
    assert captions(tmp_path / "set") == {"a/0.parquet/0": "first", "a/0.parquet/1": "", "b/0.parquet/0": "third"}
    assert set(rejects(tmp_path / "set")) == {"broken.parquet", "words.parquet"}


@pytest.mark.parametrize("column", ["jpg", "webp", "anything"])
def test_bytes_under_other_names(column: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({column: [png("1"), b"", None], "TEXT": ["a", "b", "c"]}), tmp_path / "in.parquet")
    imported(tmp_path / "in.parquet", tmp_path / "set")
    assert captions(tmp_path / "set") == {"in.parquet/0": "a"}
    assert set(rejects(tmp_path / "set")) == {"in.parquet/1", "in.parquet/2"}
    with pytest.raises(DatasetError, match=rf"no column 'photo'; it has {column}, TEXT"):
        imported(tmp_path / "in.parquet", tmp_path / "other", image_column="photo")


def test_a_folder_of_everything(tmp_path: Path) -> None:
    """A Parquet file or an archive among images takes nothing away from them."""
    source = write_photos(tmp_path / "photos", "a.png", "sub/b.png")
    (source / "a.txt").write_text("a sofa")
    pq.write_table(pa.table({"embedding": [[0.5]], "caption": ["x"]}), source / "embeddings.parquet")
    write_table(source / "more" / "0.parquet", ["3"], prompt=["from a table"])
    write_tar(source / "more.tar", {"4.png": png("4"), "4.txt": b"from an archive"})
    imported(source, tmp_path / "set")
    assert captions(tmp_path / "set") == {
        "a.png": "a sofa",
        "sub/b.png": "",
        "more.tar/4.png": "from an archive",
        "more/0.parquet/0": "from a table",
    }
    assert rejects(tmp_path / "set") == {"embeddings.parquet": "not an image"}


def test_a_set_of_ours_as_a_source(tmp_path: Path) -> None:
    """Its images and captions alone: no thumbnails of rejects, no grid."""
    source = write_photos(tmp_path / "photos", *"abcd")
    (source / "b.txt").write_text("b")
    (source / "notes").write_text("no image")
    imported(source, tmp_path / "first")
    imported(tmp_path / "first", tmp_path / "second")
    first, second = ImageDataset(tmp_path / "first"), ImageDataset(tmp_path / "second")
    assert second.names == [f"data/train-0000{number // 3}.parquet/{number % 3}" for number in range(4)]
    assert second.prompts == first.prompts
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not rejects(tmp_path / "second")


def saved_rows() -> datasets.Dataset:
    rows = {"image": [{"bytes": png(name), "path": None} for name in "ab"], "caption": ["a sofa", None]}
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


@pytest.mark.parametrize("is_dict", [False, True])
def test_a_saved_dataset(is_dict: bool, tmp_path: Path) -> None:
    rows = saved_rows()
    (datasets.DatasetDict({"train": rows, "test": rows}) if is_dict else rows).save_to_disk(tmp_path / "saved")
    imported(tmp_path / "saved", tmp_path / "set")
    assert captions(tmp_path / "set") == {"train/0": "a sofa", "train/1": ""}
    assert np.array_equal(ImageDataset(tmp_path / "set").image(0), pixels(png("a")))
    if is_dict:
        with pytest.raises(DatasetError, match="has no split 'dev'; it has train, test"):
            imported(tmp_path / "saved", tmp_path / "other", split="dev")
    for file in (tmp_path / "saved").rglob("*.json"):
        file.write_text("{broken")
    with pytest.raises(DatasetError, match="cannot be read as a saved dataset"):
        imported(tmp_path / "saved", tmp_path / "other")


def test_the_splits_that_a_card_names(tmp_path: Path) -> None:
    """Each by its files; one that the card does not name is an error, not all files of the folder."""
    for split in ("train", "test"):
        table = pa.table({"image": [png(split)], "text": [f"a {split}"]})
        (tmp_path / "set" / split).mkdir(parents=True)
        pq.write_table(table, tmp_path / "set" / split / "0.parquet")
    splits = "".join(f"  - split: {split}\n    path: {split}/*.parquet\n" for split in ("train", "test"))
    card = tmp_path / "set" / "README.md"
    card.write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{splits}---\n")
    for given in ({}, {"split": "train"}, {"split": "test"}):
        split = given.get("split", "train")
        out = tmp_path / f"of {len(given)} {split}"
        imported(tmp_path / "set", out, **given)
        assert captions(out) == {f"{split}/0.parquet/0": f"a {split}"}
    with pytest.raises(DatasetError, match="has no split 'dev'; it has train, test: add --split"):
        imported(tmp_path / "set", tmp_path / "other", split="dev")
    card.write_text("---\nconfigs:\n- config_name: default\n  data_files: train/*.parquet\n---\n")
    with pytest.raises(DatasetError, match="has no split 'test'; it has train: add --split"):
        imported(tmp_path / "set", tmp_path / "other", split="test")


@pytest.mark.parametrize("kind", ["folder", "archive", "Parquet", "saved"])
def test_what_a_source_does_not_have_is_refused(kind: str, tmp_path: Path) -> None:
    """A split of what has none, a column of image files."""
    source = write_photos(tmp_path / "folder", "a")
    if kind == "archive":
        source = tmp_path / "a.tar"
        with tarfile.open(source, "w") as archive:
            archive.add(next((tmp_path / "folder").iterdir()))
    elif kind == "Parquet":
        source = tmp_path / "a.parquet"
        pq.write_table(pa.table({"image": [png("a")]}), source)
    elif kind == "saved":
        source = tmp_path / "saved"
        saved_rows().save_to_disk(source)
    with pytest.raises(DatasetError, match=f"--split has no effect on .*{source.name}, which has none: leave it out"):
        imported(source, tmp_path / "set", split="test")
    saved_recipe = PhotoSettings(image_size=8, min_side=1).model_dump()  # it names what nobody set
    assert import_photos(str(source), PhotoSettings(**saved_recipe), tmp_path / "all", progress=False).num_images
    if kind == "folder":
        (source / "a.txt").write_text("a sofa")
        with pytest.raises(DatasetError, match=r"--caption-column has no effect on .*folder, which has none"):
            imported(source, tmp_path / "set", caption_column="text")
    if kind in ("folder", "archive"):
        with pytest.raises(DatasetError, match=f"--image-column has no effect on .*{source.name}, which has none"):
            imported(source, tmp_path / "set", image_column="image")
    assert not (tmp_path / "set").exists()
    imported(source, tmp_path / "set")
    assert len(ImageDataset(tmp_path / "set")) == (2 if kind == "saved" else 1)


@pytest.mark.parametrize(
    "source, asked",
    [
        ("owner/name", ("owner/name", {})),
        ("hf://datasets/owner/name", ("owner/name", {"revision": None, "data_dir": None})),
        ("hf://datasets/owner/name@v1/sub/folder/", ("owner/name", {"revision": "v1", "data_dir": "sub/folder"})),
    ],
)
def test_the_hub(
    source: str, asked: tuple[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def load(name: str, split: str, **options: Any) -> datasets.Dataset:
        calls.append((name, options))
        assert split == "train"
        return saved_rows()

    monkeypatch.setattr(datasets, "load_dataset", load)
    imported(source, tmp_path / "set")
    assert calls == [asked]
    assert captions(tmp_path / "set") == {"train/0": "a sofa", "train/1": ""}


def test_sources_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(DatasetError, match="put the images into a folder"):
        imported(tmp_path / "a.zip", tmp_path / "set")
    with pytest.raises(DatasetError, match="cannot be read: File name too long"):
        imported("x" * 300, tmp_path / "set")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"no image that can be used \(no files\)"):
        imported(tmp_path / "empty", tmp_path / "set")
    assert not (tmp_path / "set").exists() or not files(tmp_path / "set")
