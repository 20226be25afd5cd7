"""Which files are a person's images, in folders as people have them."""

import os
import socket
from pathlib import Path

import pytest
from PIL import Image

from synth.images import listing
from synth.images.listing import is_image_name, is_junk, list_images, walk


def put(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def listed(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in list_images(folder).images]


@pytest.mark.parametrize(
    "name",
    [
        *("._a.jpg", ".DS_Store", ".hidden.png", "Thumbs.db", "desktop.ini", "~$a.jpg", "a.jpg.part"),
        *("a.jpg.crdownload", "a.jpg.tmp", ".thumbnails/a.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg"),
        *("lost+found/a.jpg", "__MACOSX/a.jpg", "#recycle/a.jpg", "$RECYCLE.BIN/a.jpg", "a.jpg.download/a.jpg"),
        *("System Volume Information/a.jpg", ".AppleDouble/a.jpg", "deep/@EADIR/a.jpg", ".git/x/y/a.png"),
    ],
)
def test_junk_is_no_image_wherever_it_lies(tmp_path: Path, name: str) -> None:
    put(tmp_path / "album" / name)
    put(tmp_path / "album" / "real.jpg")
    found = list_images(tmp_path)
    assert found.images == [tmp_path / "album" / "real.jpg"] and found.problems == found.left_out == []
    assert any(is_junk(part) for part in Path(name).parts)


def test_a_download_under_way_is_left_alone(tmp_path: Path) -> None:
    """Firefox and aria2 write beside a file of the final name."""
    for name in ("a.jpg", "a.jpg.part", "b.PNG", "b.png.aria2", "c.jpg"):
        put(tmp_path / name)
    assert listed(tmp_path) == ["c.jpg"]


def test_images_come_sorted_from_all_folders(tmp_path: Path) -> None:
    names = ["B.JPG", "a.jpeg", "b/c.webp", "b/a.tiff", "ü/ö.png", "x.avif", "y.gif", "z.jfif"]
    for name in names:
        put(tmp_path / name)
    assert [Path(name) for name in listed(tmp_path)] == sorted(Path(name) for name in names)
    assert not is_image_name("notes.txt") and not is_image_name("jpg") and is_image_name("IMG.HEIC")


def test_what_a_person_may_miss_is_named(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.MOV", "c.DNG", "d.psd", "notes.txt", "script.ts"):
        put(tmp_path / name)
    put(tmp_path / "e.jpg", b"")
    found = list_images(tmp_path)
    assert found.images == [] and found.problems == []
    assert found.left_out == [
        f"empty files: {tmp_path / 'e.jpg'}",
        f"images in formats that are not read: {tmp_path / 'd.psd'}",
        f"raw photographs: {tmp_path / 'c.DNG'}",
        f"videos: 2, such as {tmp_path / 'a.mp4'}",
    ]


def test_heic_is_an_image_where_its_package_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [put(tmp_path / name) for name in ("a.HEIC", "b.heif")]
    monkeypatch.setattr(listing, "FORMATS", ("PNG", "JPEG", "HEIF"))
    assert list_images(tmp_path).images == paths
    monkeypatch.setattr(listing, "FORMATS", ("PNG", "JPEG"))
    found = list_images(tmp_path)
    assert found.images == []
    assert found.problems == [f".heic images need one more package, pillow-heif: 2, such as {paths[0]}"]


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    album, other = tmp_path / "album", tmp_path / "other"
    put(album / "a.png")
    put(other / "b.png")
    (album / "loop").symlink_to(album)
    (album / "up").symlink_to(tmp_path)
    (album / "self.png").symlink_to(album / "self.png")
    (album / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (album / "gone").symlink_to(tmp_path / "nowhere")
    (album / "c.png").symlink_to(other / "b.png")
    found = list_images(album)
    names = [path.relative_to(album).as_posix() for path in found.images]
    assert names == ["a.png", "c.png", "up/other/b.png"]
    assert [line.partition(" ")[0] for line in sorted(found.problems)] == [
        str(album / "gone.jpg"),
        str(album / "self.png"),
    ]


def test_what_is_not_a_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "b.png"))
    (tmp_path / "folder.jpg").mkdir()
    put(tmp_path / "folder.jpg" / "c.jpg")
    assert listed(tmp_path) == ["folder.jpg/c.jpg"]


def test_a_folder_that_cannot_be_read_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a.png")
    locked = put(tmp_path / "locked.2024" / "b.png").parent
    scandir = os.scandir

    def refuse(place: Path) -> object:  # root may read everything
        if Path(place) == locked:
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    found = list_images(tmp_path)
    assert found.images == [tmp_path / "a.png"]
    assert found.problems == [f"{locked} cannot be read: Permission denied"]


def test_names_that_are_not_utf_8_are_names(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    Image.new("RGB", (4, 4)).save(path)
    assert [str(found.path) for found in walk(tmp_path)] == [path]
    assert list_images(tmp_path).images == [Path(path)]
