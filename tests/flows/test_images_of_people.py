"""Every Python door reads through the one reader: the same pixels, or one line; and gives back what came in."""

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peoples_images import encoded, exif, grey_profile, in_srgb, ink_profile, photograph, png, rgb_profile
from PIL import Image, ImageOps
from tiny_model import properties, write_model

from distill.settings import EditSettings
from distill.zero_shot import edit
from flows.cli import main
from inference.contact_sheet import ContactSheet
from inference.inputs import Input
from inference.media.translate import Edits, Outcome, translate_all
from inference.results import Results
from inference.runtime import ImageError as RuntimeImageError
from inference.runtime import Translator
from inference.server.app import _edit
from inference.server.limits import Limits, PixelBudget, Refused
from inference.server.uploads import Ask
from synth.dataset.importing import import_photos
from synth.dataset.photographs import Rejected, prepared
from synth.errors import ImageInputError
from synth.images.encoding import open_image
from synth.images.reader import ImageError, read_image, sniff_format
from synth.settings import PhotoSettings
from synth.teacher.teacher import Teacher

P3 = rgb_profile("Display P3")
SMALL = PhotoSettings(image_size=64, min_side=1, max_aspect_ratio=1000)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx", properties())


@pytest.fixture(scope="module")
def translator(model: Path) -> Translator:
    return Translator.load(model, num_threads=1)


def command(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def served(translator: Translator, content: bytes, strength: float = 1.0) -> bytes:
    """What the server answers to an upload."""
    limits = Limits(max_aspect=1000)
    return _edit(
        io.BytesIO(content), translator, Ask(edit="red leather", strength=strength), limits, PixelBudget(limits)
    )


def test_translate_gives_back_what_came_in(model: Path, tmp_path: Path) -> None:
    brought: dict[str, Any] = {"exif": exif(6).tobytes(), "icc_profile": P3, "dpi": (300, 300)}
    (tmp_path / "a.jpg").write_bytes(encoded(photograph(64, 64), "JPEG", **brought))
    (tmp_path / "b.png").write_bytes(encoded(photograph(64, 64), "PNG", **brought))
    result = command(
        "translate", model, tmp_path / "a.jpg", tmp_path / "b.png", "--edit", "red leather", "--out", tmp_path / "out"
    )
    assert result.exit_code == 0, result.output
    for name in ("a.jpg", "b.png"):
        before, target = read_image(tmp_path / name), tmp_path / "out" / f"{name[0]}_red-leather{name[1:]}"
        after = read_image(target)
        assert sniff_format(target) == before.format
        assert (after.icc_profile, after.exif) == (P3, before.exif)
        assert after.dpi == pytest.approx((300, 300), abs=0.1)
        untouched, changed = np.s_[:, 44:], np.s_[:, :24]  # the model of these tests edits the left half
        if name == "b.png":
            assert np.array_equal(after.pixels[untouched], before.pixels[untouched])
        assert np.abs(after.pixels[untouched].astype(int) - before.pixels[untouched]).mean() <= 2
        assert np.abs(after.srgb()[changed].astype(int) - before.srgb()[changed] - [51, -25.5, -25.5]).mean() <= 4


def test_at_strength_0_the_file_is_copied(model: Path, tmp_path: Path) -> None:
    content = encoded(photograph(), "JPEG", quality=40, exif=exif(6).tobytes(), comment=b"mine")
    (tmp_path / "a.jpg").write_bytes(content)
    options = ["--edit", "red leather", "--strength", "0"]
    assert command("translate", model, tmp_path / "a.jpg", *options, "--out", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "a_red-leather.jpg").read_bytes() == content
    result = command("translate", model, tmp_path / "a.jpg", *options, "--format", "png", "--out", tmp_path / "png")
    assert result.exit_code == 0, result.output
    made = read_image(tmp_path / "png" / "a_red-leather.png")
    assert np.array_equal(made.pixels, read_image(content).pixels) and made.exif is not None


def test_another_format_by_option(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(photograph().convert("RGBA"), exif=exif().tobytes()))
    for format, suffix in (("jpeg", "jpg"), ("webp", "webp"), ("tiff", "tif"), ("avif", "avif"), ("heif", "heic")):
        out = tmp_path / format
        result = command(
            "translate", model, tmp_path / "a.png", "--edit", "red leather", "--format", format, "--out", out
        )
        assert result.exit_code == 0, result.output
        made = out / f"a_red-leather.{suffix}"
        assert sniff_format(made) == format.upper() and read_image(made).exif is not None
    assert "bmp" in command("translate", model, tmp_path / "a.png", "--edit", "x", "--format", "gif").output


def test_translate_says_what_it_left_out(model: Path, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (40, 30), color) for color in ("gray", "green")]
    for name, format, options in (("a.tif", "TIFF", ()), ("b.gif", "GIF", ("--format", "jpeg"))):
        (tmp_path / name).write_bytes(encoded(frames[0], format, save_all=True, append_images=frames[1:]))
        edit = ("--edit", "red leather", *options)
        result = command("translate", model, tmp_path / name, *edit, "--out", tmp_path / "out")
        kind = "pages" if format == "TIFF" else "frames"
        assert result.exit_code == 0 and f"note: {tmp_path / name}: the first of 2 {kind}" in result.stderr
    assert (tmp_path / "out" / "a_red-leather.tif").exists() and (tmp_path / "out" / "b_red-leather.jpg").exists()


def test_the_contact_sheet_shows_colors_in_srgb(model: Path, tmp_path: Path) -> None:
    color = np.full((100, 100, 3), [180, 90, 60], np.uint8)
    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(color), icc_profile=P3, exif=exif().tobytes()))
    assert (
        command(
            "translate",
            model,
            tmp_path / "a.png",
            "--edit",
            "red leather",
            "--strength",
            0,
            "--out",
            tmp_path / "out",
        ).exit_code
        == 0
    )
    sheet = read_image(tmp_path / "out" / "contact_sheet.png")
    assert np.abs(sheet.pixels[120, 100] - in_srgb(color[0, 0], "Display P3")).max() <= 2
    assert sheet.icc_profile is None and sheet.exif is None


def test_edit_reads_16_bits_and_keeps_what_came(tiny_sd_folder: Path, tmp_path: Path) -> None:
    ramp = np.tile(np.arange(0, 65536, 1024, dtype=">u2"), (64, 1))
    (tmp_path / "ramp.png").write_bytes(png(64, 64, 16, 0, ramp.tobytes()))
    rgba = photograph(64, 64).convert("RGBA")
    rgba.putalpha(Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))))
    (tmp_path / "clear.png").write_bytes(encoded(rgba, icc_profile=P3, exif=exif(3).tobytes(), dpi=(96, 96)))
    (tmp_path / "photo.jpg").write_bytes(encoded(photograph(64, 64), "JPEG", exif=exif(6).tobytes()))
    # The same text twice changes nothing: what comes out is what was read.
    options = ["--prompt", "a sofa", "--source", "a sofa", "--iterations", "1", "--teacher", tiny_sd_folder]
    out = tmp_path / "out"
    result = command(
        "edit", *(tmp_path / name for name in ("ramp.png", "clear.png", "photo.jpg")), *options, "--out", out
    )
    assert result.exit_code == 0, result.output
    grey = read_image(out / "ramp_edited.png").pixels
    assert np.abs(grey.astype(int) - np.dstack([np.rint(ramp / 257.0)] * 3)).max() <= 1
    before, after = read_image(tmp_path / "clear.png"), read_image(out / "clear_edited.png")
    assert np.array_equal(before.alpha, after.alpha) and np.abs(after.pixels.astype(int) - before.pixels).max() <= 1
    assert (after.icc_profile, after.exif) == (P3, before.exif)
    assert read_image(out / "photo_edited.jpg").exif == read_image(tmp_path / "photo.jpg").exif is not None


def test_the_teacher_sees_srgb_on_white(tiny_teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    encode = tiny_teacher.encode
    # Into the object's own dictionary: `setattr` would leave the method there, for all tests that share the teacher.
    monkeypatch.setitem(vars(tiny_teacher), "encode", lambda x: seen.append(x) or encode(x))
    color = np.full((64, 64, 3), [180, 90, 60], np.uint8)
    image = Image.fromarray(np.dstack([color, np.full((64, 64), 128, np.uint8)]))
    image.info["icc_profile"] = P3
    edited = edit(tiny_teacher, image, "a sofa", settings=EditSettings(iterations=1)).images[0]
    share = 128 / 255
    expected = in_srgb(color[0, 0], "Display P3") * share + 255 * (1 - share)
    assert np.abs(((seen[0][0] + 1) * 127.5).mean(dim=(1, 2)).cpu().numpy() - expected).max() <= 2
    assert edited.mode == "RGBA" and edited.info["icc_profile"] == P3


def test_an_imported_set_is_srgb_and_tells_no_places(tmp_path: Path) -> None:
    color = np.full((80, 80, 3), [180, 90, 60], np.uint8)
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(
        encoded(Image.fromarray(color), "JPEG", quality=98, exif=exif(6).tobytes(), icc_profile=P3, dpi=(72, 72))
    )
    (folder / "b.png").write_bytes(png(80, 80, 16, 0, np.full((80, 80), 257 * 77, ">u2").tobytes()))
    import_photos(str(folder), SMALL, tmp_path / "set", progress=False)
    rows = [row for path in (tmp_path / "set" / "data").iterdir() for row in pq.read_table(path).to_pylist()]
    first, second = (Image.open(io.BytesIO(row["image"]["bytes"])) for row in rows)
    assert np.abs(np.asarray(first)[32, 32] - in_srgb(color[0, 0], "Display P3")).max() <= 3
    assert (np.asarray(second) == 77).all()
    for path in (tmp_path / "set").rglob("*"):
        assert not path.is_file() or b"A maker" not in path.read_bytes(), path
    assert not {"exif", "icc_profile", "dpi"} & {*first.info, *second.info}


def test_the_server_keeps_png_alpha_and_profile_and_no_exif(translator: Translator) -> None:
    clear = photograph(64, 64).convert("RGBA")
    clear.putalpha(200)
    content = encoded(clear, "WEBP", lossless=True, icc_profile=P3, exif=exif(6).tobytes())
    answer = served(translator, content)
    made, before = read_image(answer), read_image(content)
    assert sniff_format(answer) == "PNG" and made.icc_profile == P3 and made.exif is None and b"A maker" not in answer
    assert np.array_equal(made.pixels[:, 44:], before.pixels[:, 44:]) and (made.alpha == 200).all()
    inks = encoded(photograph(64, 64).convert("CMYK"), "TIFF", icc_profile=ink_profile())
    at_0 = read_image(served(translator, inks, strength=0.0))
    assert np.array_equal(at_0.pixels, read_image(inks).pixels) and at_0.icc_profile is None


MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F")
PROFILES = {"none": None, "P3": P3, "grey": grey_profile(1.8), "inks": ink_profile(), "broken": b"broken profile"}


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """An image file of any kind that Pillow writes, maybe cut short or damaged."""
    mode, width, height = draw(st.sampled_from(MODES)), draw(st.integers(1, 90)), draw(st.integers(1, 70))
    rgb = photograph(height, width, draw(st.integers(0, 9))).convert("RGBA")
    rgb.putalpha(Image.fromarray(np.linspace(0, 255, width, dtype=np.uint8)[None].repeat(height, axis=0)))
    if mode in ("I;16", "I", "F"):
        grey = np.asarray(rgb.convert("L"))
        array = (
            grey.astype("<u2") * 257
            if mode == "I;16"
            else grey.astype("i4") * 257
            if mode == "I"
            else grey.astype("f4") / 255
        )
        image = Image.fromarray(array)
    else:
        image = (rgb if mode in ("LA", "RGBA") else rgb.convert("RGB")).convert(mode)
    formats = {
        "CMYK": ("JPEG", "TIFF"),
        "YCbCr": ("JPEG", "TIFF"),
        "F": ("TIFF",),
        "I": ("TIFF",),
        "I;16": ("PNG", "TIFF"),
    }
    lossy = () if mode in ("LA", "P", "RGBA") else ("JPEG",)
    format = draw(
        st.sampled_from(
            formats.get(mode, ("PNG", "TIFF", *lossy, *(("WEBP", "GIF", "AVIF") if mode in ("RGB", "RGBA") else ())))
        )
    )
    options: dict[str, Any] = {"icc_profile": PROFILES[draw(st.sampled_from(sorted(PROFILES)))]}
    if orientation := draw(st.integers(0, 9)):
        options["exif"] = exif(orientation).tobytes() if draw(st.booleans()) else exif(orientation).tobytes()[:40]
    if mode == "P" and format == "PNG":
        options["transparency"] = draw(st.sampled_from([0, b"\x00\x80"]))
    content = bytearray(encoded(image, format, **{key: value for key, value in options.items() if value is not None}))
    if draw(st.integers(0, 3)) == 0:
        content = content[: draw(st.integers(0, len(content)))]
    if draw(st.integers(0, 5)) == 0 and content:
        content[draw(st.integers(0, len(content) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(content)


def translated(translator: Translator, path: Path, folder: Path, strength: float) -> Outcome:
    """What `distillery translate` makes of a file, in a new folder."""
    out, outcome = Path(tempfile.mkdtemp(dir=folder)), Outcome()
    edits = Edits(translator, ["red leather"], strength)
    list(translate_all(edits, [Input(path, Path("image"))], Results(out), ContactSheet(edits.names), outcome))
    return outcome


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(content=files())
def test_every_door_reads_the_same_pixels(translator: Translator, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image.bin"
    path.write_bytes(content)
    try:
        photo = read_image(path)
    except ImageError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        with pytest.raises(RuntimeImageError):
            translator(path, "red leather")
        refused_file = translated(translator, path, tmp_path, 1.0)
        assert not refused_file.files and len(refused_file.problems) == 1 and "\n" not in refused_file.problems[0]
        with pytest.raises(Refused) as refused:
            served(translator, content)
        assert refused.value.status in (413, 415, 422) and json.loads(refused.value.response().body)
        with pytest.raises(Rejected):
            prepared(content, SMALL)
        with pytest.raises(ImageInputError):
            open_image(path)
        return
    assert np.array_equal(translator(path, "red leather", 0), photo.to_pil())
    assert np.array_equal(open_image(path), photo.on_ground())
    square = ImageOps.fit(Image.fromarray(photo.on_ground()), (64, 64), Image.Resampling.LANCZOS)
    assert np.array_equal(prepared(content, SMALL), square)
    answer = read_image(served(translator, content, strength=0.0))
    assert np.array_equal(answer.to_pil(), photo.to_pil()) and answer.exif is None
    made = read_image(translated(translator, path, tmp_path, 1.0).files[0])
    assert made.size == photo.size and made.icc_profile == photo.icc_profile and made.exif == photo.exif
    assert translated(translator, path, tmp_path, 0.0).files[0].read_bytes() == content
