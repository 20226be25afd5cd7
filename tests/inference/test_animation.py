"""Animations through a model: frames, their times, loops and transparency stay."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from small_runs import command
from tiny_model import properties, write_model

from inference.runtime import Translator

EDIT, TIMES = "red leather", [100, 200, 50, 70, 80, 300]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx", properties(name="rooms"))


def frames(ground: tuple[int, ...] = (90, 110, 140, 255)) -> list[Image.Image]:
    """A disc that moves, RGBA."""
    found = []
    for number in range(len(TIMES)):
        image = Image.new("RGBA", (80, 60), ground)
        draw = ImageDraw.Draw(image)
        draw.ellipse((5 + number * 8, 10, 35 + number * 8, 40), (150, 130, 80, 255))
        draw.rectangle((0, 45, 80, 60), (100, 80, 70, 255))
        found.append(image)
    return found


def check(model: Path, source: Path, made: Path, levels: int = 0, loop: int | None = 3) -> None:
    """Each frame is what the model makes of it, for as long as it was."""
    translator = Translator.load(model, num_threads=1)
    with Image.open(source) as before, Image.open(made) as after:
        assert before.n_frames == after.n_frames == len(TIMES)
        assert after.info.get("loop") == before.info.get("loop") == loop
        for number, time in enumerate(TIMES):
            before.seek(number), after.seek(number)
            before.load(), after.load()
            assert after.info["duration"] == before.info["duration"] == time
            wanted = np.asarray(translator(before.convert("RGBA"), EDIT)).astype(int)
            found = np.asarray(after.convert("RGBA")).astype(int)
            seen = wanted[..., 3] > 127
            assert np.array_equal(seen, found[..., 3] > 127)
            assert np.abs(wanted - found)[seen].max() <= levels
        moved = np.abs(np.asarray(before.convert("RGB")).astype(int) - found[..., :3])  # (H, W, 3)
        assert moved[:, :40][seen[:, :40]].mean() > 20, "the edit is to be seen"


@pytest.mark.parametrize("is_clear", [False, True])
@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_an_animation_stays_one(name: str, is_clear: bool, model: Path, tmp_path: Path) -> None:
    images = frames((0, 0, 0, 0)) if is_clear else [image.convert("RGB") for image in frames()]
    options = {"disposal": 2} if is_clear and name == "a.gif" else {"lossless": True} if name == "a.webp" else {}
    images[0].save(tmp_path / name, save_all=True, append_images=images[1:], duration=TIMES, loop=3, **options)
    arguments = ("translate", model, tmp_path / name, "--edit", EDIT, "--out", tmp_path / "out")
    result = command(*arguments)
    assert result.exit_code == 0 and "note" not in result.stderr, result.output
    check(model, tmp_path / name, tmp_path / "out" / f"a_red-leather{name[1:]}")
    assert "skipped: 1 results" in command(*arguments).stderr


def test_other_formats_of_animations(model: Path, tmp_path: Path) -> None:
    images = [image.convert("RGB") for image in frames()]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=TIMES)
    for format in ("png", "webp"):
        out = tmp_path / format
        assert command("translate", model, tmp_path / "a.gif", "--edit", EDIT, "--format", format, "--out", out)
        with Image.open(out / f"a_red-leather.{format}") as made:
            assert made.n_frames == len(TIMES)
    # Shown once, as the file says.
    assert command("translate", model, tmp_path / "a.gif", "--edit", EDIT, "--out", tmp_path / "out").exit_code == 0
    check(model, tmp_path / "a.gif", tmp_path / "out" / "a_red-leather.gif", loop=None)


def test_a_gif_of_one_frame_becomes_png(model: Path, tmp_path: Path) -> None:
    frames()[0].convert("RGB").save(tmp_path / "a.gif")
    assert command("translate", model, tmp_path / "a.gif", "--edit", EDIT, "--out", tmp_path / "out").exit_code == 0
    with Image.open(tmp_path / "out" / "a_red-leather.png") as made:
        assert made.format == "PNG"


def test_a_gif_of_many_colors_is_near(model: Path, tmp_path: Path) -> None:
    """After the edit a frame has more than 256 colors, and the GIF the nearest that fit."""
    rows, columns = np.mgrid[0:60, 0:80]
    pictures = [
        Image.fromarray(np.stack([rows * 2 + 60, columns + 70, rows + columns + number], 2).astype(np.uint8))
        for number in range(len(TIMES))
    ]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=TIMES, loop=3)
    assert command("translate", model, tmp_path / "a.gif", "--edit", EDIT, "--out", tmp_path / "out").exit_code == 0
    check(model, tmp_path / "a.gif", tmp_path / "out" / "a_red-leather.gif", levels=16)


def test_a_cut_animation_ends_in_one_line(model: Path, tmp_path: Path) -> None:
    images = [image.convert("RGB") for image in frames()]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=TIMES)
    content = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(content[: len(content) * 6 // 10])
    result = command("translate", model, tmp_path / "a.gif", "--edit", EDIT, "--out", tmp_path / "out")
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.exit_code == 2 and len(errors) == 1
    assert errors[0].startswith(f"error: {tmp_path / 'a.gif'} cannot be read as an image: ")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_strength_zero_copies_an_animation(model: Path, tmp_path: Path) -> None:
    images = frames()
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=TIMES)
    options = ("--edit", EDIT, "--strength", "0", "--out", tmp_path / "out")
    assert command("translate", model, tmp_path / "a.gif", *options).exit_code == 0
    assert (tmp_path / "out" / "a_red-leather.gif").read_bytes() == (tmp_path / "a.gif").read_bytes()
