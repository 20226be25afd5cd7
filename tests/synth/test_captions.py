"""Captions as people keep them: beside images, in metadata, in any encoding; and what nobody sees in them."""

import csv
import io
import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_photos import captions, imported, png, rejects, write_photos

from synth.dataset.sources.captions import caption_in, caption_of, cleaned, decoded
from synth.errors import DatasetError

ROWS = [{"file_name": "a.png", "text": "a red sofa"}, {"file_name": "b.png", "text": "naïve, 'quoted' sofa"}]


def as_jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def as_csv(rows: list[dict[str, Any]], delimiter: str = ",") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def named(column: str, before: str = "", spelt: Callable[[str], str] = str) -> list[dict[str, Any]]:
    """The rows with another column of captions, or their files spelt otherwise."""
    return [{"file_name": before + spelt(row["file_name"]), column: row["text"]} for row in ROWS]


METADATA = {
    "plain": ("metadata.jsonl", as_jsonl(ROWS).encode()),
    "bom": ("metadata.jsonl", b"\xef\xbb\xbf" + as_jsonl(ROWS).encode()),
    "crlf": ("metadata.jsonl", as_jsonl(ROWS).replace("\n", "\r\n").encode()),
    "utf-16": ("metadata.jsonl", as_jsonl(ROWS).encode("utf-16")),
    "utf-16-be": ("metadata.jsonl", b"\xfe\xff" + as_jsonl(ROWS).encode("utf-16-be")),
    "utf-16 without a mark": ("metadata.jsonl", as_jsonl(ROWS).encode("utf-16-le")),
    "utf-32": ("metadata.jsonl", as_jsonl(ROWS).encode("utf-32")),
    "windows-1252": ("metadata.csv", as_csv(ROWS).encode("cp1252")),
    "csv": ("metadata.csv", as_csv(ROWS).encode()),
    "csv with bom and crlf": ("metadata.csv", b"\xef\xbb\xbf" + as_csv(ROWS).replace("\n", "\r\n").encode()),
    "semicolons": ("metadata.csv", as_csv(ROWS, ";").encode()),
    "tabs": ("metadata.csv", as_csv(ROWS, "\t").encode()),
    "unquoted commas": ("metadata.csv", b"file_name, text\na.png, a red sofa\nb.png,na\xc3\xafve, 'quoted' sofa\n"),
    "captions": ("metadata.jsonl", as_jsonl(named("caption")).encode()),
    "Prompt": ("metadata.jsonl", as_jsonl(named("Prompt")).encode()),
    "a list": ("metadata.jsonl", as_jsonl([{**r, "text": ["", r["text"], "another"]} for r in ROWS]).encode()),
    "several rows": ("metadata.csv", as_csv([*ROWS, *({**r, "text": "another"} for r in ROWS)]).encode()),
    "windows paths": ("metadata.csv", as_csv(named("text", ".\\", str.upper)).encode()),
    "other columns": ("metadata.jsonl", as_jsonl([{"label": 3, **r, "tags": {"x": 1}} for r in ROWS]).encode()),
}  # fmt: skip


@pytest.mark.parametrize("kind", METADATA)
def test_metadata_in_every_shape(kind: str, tmp_path: Path) -> None:
    source = write_photos(tmp_path / "photos", "a.png", "b.png", "c.png")
    name, content = METADATA[kind]
    (source / name).write_bytes(content)
    made = imported(source, tmp_path / "set")
    assert captions(tmp_path / "set") == {"a.png": "a red sofa", "b.png": "naïve, 'quoted' sofa", "c.png": ""}
    assert not rejects(tmp_path / "set")
    assert (made.num_images, made.num_captioned) == (3, 2)
    assert made.captions == [("a.png", "a red sofa"), ("b.png", "naïve, 'quoted' sofa")]
    assert bool(made.notes) == (kind in ("windows-1252", "several rows"))


def test_metadata_as_parquet_is_no_set_of_images(tmp_path: Path) -> None:
    source = write_photos(tmp_path / "photos", "a.png", "b.png")
    pq.write_table(pa.Table.from_pylist(ROWS), source / "metadata.parquet")
    imported(source, tmp_path / "set")
    assert captions(tmp_path / "set") == {"a.png": "a red sofa", "b.png": "naïve, 'quoted' sofa"}
    assert not rejects(tmp_path / "set")


def test_the_nearest_metadata_wins(tmp_path: Path) -> None:
    source = write_photos(tmp_path / "photos", "a.png", "sub/a.png", "sub/deep/b.png", "sub/c.png", "sub/d.png")
    (source / "metadata.csv").write_text(
        "file_name,text\na.png,root\nsub/a.png,far\nsub/deep/b.png,far b\nsub/d.png,d\n"
    )
    (source / "sub" / "metadata.jsonl").write_text(
        as_jsonl([{"file_name": "a.png", "text": "near"}, {"file_name": "deep/b.png", "text": ""}])
    )
    (source / "sub" / "deep" / "metadata.csv").write_text("file_name,text\n../c.png,from below\n")
    imported(source, tmp_path / "set")
    assert captions(tmp_path / "set") == {
        "a.png": "root", "sub/a.png": "near", "sub/c.png": "from below", "sub/d.png": "d", "sub/deep/b.png": "far b",
    }  # fmt: skip


def test_a_text_file_beside_each_image(tmp_path: Path) -> None:
    source = write_photos(tmp_path / "photos", *(f"{number}.png" for number in range(8)), "sub/0.jpg")
    (source / "0.txt").write_bytes(b"\xef\xbb\xbf\r\n a sofa \r\nmore\r\n")
    (source / "1.caption").write_text("by another program")
    (source / "2.json").write_text(json.dumps({"caption": ["", "in JSON"], "url": "x"}))
    (source / "3.png.txt").write_text("with both endings")
    (source / "4.TXT").write_bytes("ein Sofa für Zwölf".encode("utf-16"))
    (source / "5.txt").write_text("")
    (source / "5.json").write_text(json.dumps({"caption": "where the text is empty"}))
    (source / "6.json").write_text("{broken")
    (source / "sub" / "0.txt").write_bytes("caf\xe9".encode("latin-1"))
    (source / "notes.txt").write_text("not a caption")
    made = imported(source, tmp_path / "set")
    assert captions(tmp_path / "set") == {
        "0.png": "a sofa", "1.png": "by another program", "2.png": "in JSON", "3.png": "with both endings",
        "4.png": "ein Sofa für Zwölf", "5.png": "where the text is empty", "6.png": "", "7.png": "",
        "sub/0.jpg": "café",
    }  # fmt: skip
    gone = rejects(tmp_path / "set")
    assert gone.pop("6.json").startswith("not JSON") and gone == {"notes.txt": "not an image"}
    assert made.notes == [
        "1 files of captions are not UTF-8, such as sub/0.txt: they were read as Windows-1252; look at what they say"
    ]


@pytest.mark.parametrize("on_disk, written", [("NFD", "NFC"), ("NFC", "NFD"), ("NFD", "NFD")])
def test_names_in_both_forms_of_unicode(on_disk: str, written: str, tmp_path: Path) -> None:
    name, beside = (unicodedata.normalize(on_disk, text) for text in ("Zürich.png", "Málaga.png"))
    source = write_photos(tmp_path / "photos", name, beside)
    row = {"file_name": unicodedata.normalize(written, "Zürich.png"), "text": unicodedata.normalize("NFD", "Café")}
    (source / "metadata.jsonl").write_text(as_jsonl([row]))
    (source / unicodedata.normalize(written, "Málaga.txt")).write_text("the sea")
    imported(source, tmp_path / "set")
    assert captions(tmp_path / "set") == {name: "Café", beside: "the sea"}
    assert not rejects(tmp_path / "set")


def test_bad_rows_are_rejects(tmp_path: Path) -> None:
    source = write_photos(tmp_path / "photos", "a.png", "b.png")
    lines = ['{"file_name": "a.png", "text": "kept"}', "not JSON", "[1]", '{"text": "names nothing"}', "[" * 100_000]
    lines += ['{"file_name": "gone.png", "text": "x"}', '{"file_name": "../../etc/passwd", "text": "x"}']
    lines += [
        '{"file_name": "\\ud800.png", "text": "x"}',
        '{"file_name": "b.png", "text": "a\\u0000\\ud800b\\u2028c"}',
    ]
    (source / "metadata.jsonl").write_text("\n".join(lines))
    imported(source, tmp_path / "set")
    assert captions(tmp_path / "set") == {"a.png": "kept", "b.png": "a b c"}
    missing = "metadata.jsonl names it, and it is not there"
    assert rejects(tmp_path / "set") == {
        "metadata.jsonl": "4 of its rows cannot be read or name no file: line 2, line 3, line 4",
        "gone.png": missing,
        "../../etc/passwd": missing,
        "\\ud800.png": missing,
    }


@pytest.mark.parametrize("content", ["nothing that is JSON\n", '{"text": "x"}\n', "[1, 2]"])
def test_metadata_without_one_good_row_is_refused(content: str, tmp_path: Path) -> None:
    source = write_photos(tmp_path / "photos", "a.png")
    (source / "metadata.jsonl").write_text(content)
    with pytest.raises(DatasetError, match=r"metadata.jsonl cannot be read: none of its 1 rows names a file"):
        imported(source, tmp_path / "set")
    (source / "metadata.jsonl").unlink()
    (source / "metadata.parquet").write_bytes(b"no Parquet")
    with pytest.raises(DatasetError, match=r"metadata.parquet cannot be read"):
        imported(source, tmp_path / "set")


def test_a_named_column_counts_alone_and_must_exist(tmp_path: Path) -> None:
    source = write_photos(tmp_path / "photos", "a.png")
    (source / "metadata.jsonl").write_text(as_jsonl([{"file_name": "a.png", "text": "one", "long": "two"}]))
    imported(source, tmp_path / "set", caption_column="long")
    assert captions(tmp_path / "set") == {"a.png": "two"}
    with pytest.raises(DatasetError, match="no column 'lang' of captions; it has file_name, text, long"):
        imported(source, tmp_path / "set", caption_column="lang")


def test_a_caption_like_a_book_is_a_reject(tmp_path: Path) -> None:
    source = write_photos(tmp_path / "photos", "a.png", "b.png")
    (source / "a.txt").write_text("word " * 3000)
    imported(source, tmp_path / "set")
    assert captions(tmp_path / "set") == {"b.png": ""}
    assert rejects(tmp_path / "set") == {"a.png": "its caption has 14999 characters, more than 10000"}


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """They are imported under a name that shows the bytes, and find captions of either encoding."""
    source = write_photos(tmp_path / "photos", "a.png")
    names = [b"caf\xe9.png", b"\xff\xfe.png", b"z\xe9\xe9.png"]
    for number, name in enumerate(names):
        (source / os.fsdecode(name)).write_bytes(png(str(number)))
    (source / os.fsdecode(b"caf\xe9.txt")).write_text("coffee")
    (source / os.fsdecode(b"not\xe9.txt")).write_text("no image")
    (source / "metadata.csv").write_bytes("file_name,text\nzéé.png,sea\n".encode("latin-1"))
    imported(source, tmp_path / "set")
    assert captions(tmp_path / "set") == {
        "a.png": "", "caf\\xe9.png": "coffee", "z\\xe9\\xe9.png": "sea", "\\xff\\xfe.png": "",
    }  # fmt: skip
    assert rejects(tmp_path / "set") == {"not\\xe9.txt": "not an image"}


def test_files_that_cannot_be_read_are_rejects(tmp_path: Path) -> None:
    source = write_photos(tmp_path / "photos", "a.png", "b.png")
    (source / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (source / "loop.png").symlink_to(source / "loop.png")
    (source / "memory.png").symlink_to("/proc/self/mem")  # opens, and fails when it is read
    (source / "b.txt").symlink_to("/proc/self/mem")
    (source / "again").symlink_to(source)
    os.mkfifo(source / "pipe.png")
    imported(source, tmp_path / "set")
    assert captions(tmp_path / "set") == {"a.png": "", "b.png": ""}
    gone = rejects(tmp_path / "set")
    assert set(gone) == {"gone.png", "loop.png", "memory.png", "b.txt"}
    assert gone["memory.png"] == gone["b.txt"] == "cannot be read: Input/output error"
    assert str(tmp_path) not in str(gone)


def test_a_copy_with_another_caption_says_so(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    for name, caption in {"a": "", "b": "", "c": "a sofa"}.items():
        (source / f"{name}.png").write_bytes(png("one"))
        (source / f"{name}.txt").write_text(caption)
    imported(source, tmp_path / "set")
    assert rejects(tmp_path / "set") == {
        "b.png": "the same image as a.png",
        "c.png": "the same image as a.png, whose caption is '' and not 'a sofa'",
    }


def test_what_a_caption_is() -> None:
    assert caption_of(["", None, ["first", "second"]]) == "first"
    assert caption_of(3) == caption_of(None) == caption_of({"a": 1}) == caption_of(True) == ""
    assert cleaned("\ufeff a\x00b\r\n\tc\u200b  d\x85 ") == "a b c d"
    assert caption_in({"prompt": "late", "TEXT": "", "Caption": "early"}, None) == "early"
    assert caption_in({"json": {"caption": "inside"}, "label": "x"}, None) == "inside"
    assert caption_in({"text": "x", "label": "chosen"}, "label") == "chosen"
    assert decoded(b"caf\xe9 \x81") == ("café \x81", False)
    assert decoded("日本語の字幕".encode()) == ("日本語の字幕", True)
    assert decoded(b"a\x00b c d") == ("a\x00b c d", True)
