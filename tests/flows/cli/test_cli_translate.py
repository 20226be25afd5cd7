"""`distillery translate`: which images, which files, and what is refused before any of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import command
from tiny_model import noise


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two images, one of them in a folder below; a text, and a hidden file."""
    folder = tmp_path / "photos"
    (folder / "old").mkdir(parents=True)
    Image.fromarray(noise(64, 64, 1)).save(folder / "a.png")
    Image.fromarray(noise(40, 80, 2)).save(folder / "old" / "b.PNG")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image")
    return folder


def files(folder: Path) -> list[str]:
    """All but the hidden list of results."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return sorted(str(path.relative_to(folder)) for path in found)


def test_translate_takes_folders_and_writes_a_contact_sheet(model: Path, photos: Path, tmp_path: Path) -> None:
    from inference.runtime import Translator

    out = photos / "edited"  # within the folder: a second call must not edit the first one's results
    for _ in range(2):
        result = command("translate", model, photos, "--edit", "all", "--out", out, "--provider", "cpu")
        assert result.exit_code == 0, result.output
        expected = [f"{name}_{edit}.png" for name in ("a", "old/b") for edit in ("blue-fabric", "red-leather")]
        assert files(out) == sorted([*expected, "contact_sheet.png"])
    assert sorted(result.stdout.split()) == sorted(str(out / name) for name in files(out))
    assert "2 images, 2 edits, on CPUExecutionProvider" in result.stderr
    edited = Translator.load(model)(photos / "a.png", "red leather")
    assert np.array_equal(Image.open(out / "a_red-leather.png"), edited)
    sheet = np.asarray(Image.open(out / "contact_sheet.png")).astype(int)
    cell = sheet[28 + 20 : 28 + 20 + 192]  # the first row, below header and name
    assert np.abs(cell[:, 8 : 8 + 192].mean((0, 1)) - noise(64, 64, 1).mean((0, 1))).max() < 2
    assert cell[:, 208 : 208 + 96, 0].mean() > cell[:, 8 : 8 + 96, 0].mean() + 40  # red leather, on the left half
    assert cell[:, 408 : 408 + 96, 2].mean() > cell[:, 8 : 8 + 96, 2].mean() + 40


def test_translate_takes_globs(model: Path, photos: Path, tmp_path: Path) -> None:
    for pattern, name in (("*.png", "a"), ("**/b.*", "b")):
        result = command("translate", model, photos / pattern, "--edit", "red leather", "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
        assert files(tmp_path / name) == [f"{name}_red-leather.png", "contact_sheet.png"]


def test_a_glob_that_is_none_stops_no_other(model: Path, photos: Path, tmp_path: Path) -> None:
    """Before Python 3.13 it is no pattern; since then it matches no more than `*` does."""
    out = tmp_path / "out"
    result = command("translate", model, photos / "**.jpg", photos / "a.png", "--edit", "red leather", "--out", out)
    assert result.exit_code == 2
    assert result.stderr.count("error: ") == 1 and f"no image at {photos / '**.jpg'}: " in result.stderr
    assert files(out) == ["a_red-leather.png", "contact_sheet.png"]


def test_a_bad_image_stops_no_other(model: Path, photos: Path, tmp_path: Path) -> None:
    cut = photos / "0cut.png"
    cut.write_bytes((photos / "a.png").read_bytes()[:3000])
    out = tmp_path / "out"
    inputs = [photos, tmp_path / "absent.png", photos / "*.jpg", photos / "notes.txt"]
    result = command("translate", model, *inputs, "--edit", "red leather", "--out", out)
    assert result.exit_code == 2
    assert files(out) == ["a_red-leather.png", "contact_sheet.png", "old/b_red-leather.png"]
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 4
    for line, name in zip(errors, ("absent.png", "*.jpg", "0cut.png", "notes.txt"), strict=True):
        assert name in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--edit", "red lether"], "unknown edit 'red lether': did you mean 'red leather'?"),
        (["--edit", "all", "--strength", "11"], "strength is 11.0: give a number from -10 to 10"),
        (["--edit", "all", "--strength", "nan"], "strength is nan"),
        (["--edit", "all", "--provider", "cuda"], "onnxruntime has no CUDAExecutionProvider here"),
    ],
)
def test_what_is_wrong_for_all_images_is_told_before_any(
    options: list[str], message: str, model: Path, photos: Path, tmp_path: Path
) -> None:
    result = command("translate", model, photos, *options, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_long_contact_sheet_ends_with_a_count(tmp_path: Path) -> None:
    from inference.contact_sheet import MAX_ROWS, ContactSheet
    from inference.results import Results

    sheet = ContactSheet(["an edit whose name is much too long for the width of its column"])
    assert sheet.write(Results(tmp_path)) == []
    for number in range(MAX_ROWS + 3):
        sheet.add(f"image {number}\n\udcff", [Image.new("RGB", (30, 20))] * 2)
    (path,) = sheet.write(Results(tmp_path))
    with Image.open(path) as image:
        assert image.size == (8 + 2 * 200, 28 + 220 * MAX_ROWS + 20)


def test_file_names_cannot_drive_the_terminal(model: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "a.png").rename(photos / "a\x1b[2J.png")
    (photos / "cut\x1b[2J.png").write_bytes(b"no image")
    result = command("translate", model, photos, "--edit", "red leather", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "\x1b" not in result.output
    assert r"a\x1b[2J_red-leather.png" in result.stdout
    assert r"cut\x1b[2J.png" in result.stderr
