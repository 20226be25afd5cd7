"""Whatever image comes in: the same size goes out, strength 0 changes nothing, and bad files end in one line."""

import io
from pathlib import Path

import numpy as np
import pytest
from hostile_images import bomb
from hypothesis import example, given, settings
from hypothesis import strategies as st
from memory import resident_mib
from PIL import Image, ImageOps
from tiny_model import OFFSETS, noise, properties, write_model

from inference.runtime import ImageError, Translator

SIDES = st.integers(1, 300)
LONG_SIDES = {"height": st.integers(1, 4000), "width": st.integers(1, 6000)}
SEEDS = st.integers(0, 2**32 - 1)
STRENGTHS = st.floats(-10, 10)
EDITED_MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I;16", "I;16B"]
FORMATS = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]

quick = settings(deadline=None, max_examples=60)


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Translator:
    path = write_model(tmp_path_factory.mktemp("model") / "model.onnx", properties())
    return Translator.load(path, num_threads=1)


def picture(mode: str, height: int, width: int, seed: int) -> Image.Image:
    """An image of any of Pillow's modes, of random values."""
    rng = np.random.default_rng(seed)
    if mode in ("I;16", "I;16B"):
        values = rng.integers(0, 2**16, (height, width), dtype=np.uint16)
        return Image.frombytes(mode, (width, height), values.astype("<u2" if mode == "I;16" else ">u2").tobytes())
    if mode in ("I", "F"):
        return Image.fromarray(rng.integers(0, 2**20, (height, width)).astype("int32" if mode == "I" else "float32"))
    rgba = Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8))
    if mode in ("P", "PA"):
        image = rgba.convert("RGB").quantize(8)
        image.info["transparency"] = int(rng.integers(8))
        return image if mode == "P" else image.convert("PA")
    if mode in ("RGBa", "La"):
        return rgba.convert("RGBA" if mode == "RGBa" else "LA").convert(mode)
    if mode == "LAB":
        return Image.frombytes("LAB", (width, height), rgba.convert("RGB").tobytes())
    return rgba.convert("RGB").convert(mode) if mode in ("CMYK", "YCbCr", "HSV", "RGBX") else rgba.convert(mode)


@quick
@given(height=SIDES, width=SIDES, seed=SEEDS, strength=STRENGTHS)
def test_any_array_keeps_its_size_and_is_its_own_at_zero(translator, height, width, seed, strength):
    image = noise(height, width, seed)
    before = image.copy()
    edited = translator(image, "blue fabric", strength)
    assert edited.shape == image.shape and edited.dtype == np.uint8
    assert np.array_equal(image, before)
    assert np.array_equal(translator(image, "blue fabric", 0), image)


@settings(deadline=None, max_examples=15)
@given(**LONG_SIDES, turned=st.booleans())
@example(height=1, width=6000, turned=False)
@example(height=1, width=1, turned=False)
def test_large_and_lanky_images_keep_size_and_untouched_half(translator, height, width, turned):
    image = noise(width, height) if turned else noise(height, width)
    edited = translator(image, "blue fabric")
    assert edited.shape == image.shape
    untouched = (
        image.shape[1] * 3
    ) // 4  # the model of these tests edits the left half; a cubic reaches over its edge
    assert image.shape[1] < 100 or np.array_equal(edited[:, untouched:], image[:, untouched:])


@quick
@given(mode=st.sampled_from(EDITED_MODES), height=SIDES, width=SIDES, seed=SEEDS)
def test_any_mode_keeps_size_and_colors_at_strength_zero(translator, mode, height, width, seed):
    image = picture(mode, height, width, seed)
    assert image.mode == mode
    untouched = translator(image, "red leather", 0)
    assert translator(image, "red leather").size == untouched.size == image.size
    if mode.startswith("I;16"):
        grey = np.rint(np.asarray(image) / 257).astype(np.uint8)
        assert np.array_equal(untouched, np.dstack([grey] * 3))
    elif image.has_transparency_data:
        assert untouched.mode == "RGBA"
        assert np.array_equal(untouched, image.convert("RGBA"))
    else:
        assert untouched.mode == "RGB"
        assert np.array_equal(untouched, image.convert("RGB"))


@pytest.mark.parametrize("mode", ["I", "F", "LAB", "RGBa", "La"])
def test_modes_without_a_meaning_are_refused_or_edited(translator, mode):
    image = picture(mode, 20, 30, 0)
    try:
        assert translator(image, "red leather").size == image.size
    except ImageError as error:
        assert "\n" not in str(error)


@quick
@given(sizes=st.lists(st.tuples(SIDES, SIDES), max_size=12), seed=SEEDS)
def test_a_list_is_as_good_as_one_by_one(translator, sizes, seed):
    images = [noise(height, width, seed) for height, width in sizes]
    together = translator(images, "red leather", 0.7)
    for image, edited in zip(images, together, strict=True):
        assert np.array_equal(edited, translator(image, "red leather", 0.7))


@quick
@given(orientation=st.integers(0, 9), format_=st.sampled_from(["PNG", "JPEG", "TIFF", "WEBP"]), seed=SEEDS)
def test_orientation_tags_are_applied(translator, orientation, format_, seed):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(noise(17, 40, seed)).save(buffer, format_, exif=exif)
    with Image.open(buffer) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        edited = translator(image, "red leather", 0)
    assert np.array_equal(edited, expected)
    assert edited.size == ((17, 40) if orientation in (5, 6, 7, 8) else (40, 17))


@settings(deadline=None, max_examples=150)
@given(data=st.data(), format_=st.sampled_from(FORMATS))
def test_broken_files_are_edited_or_refused_in_one_line(tmp_path_factory, translator, data, format_):
    buffer = io.BytesIO()
    Image.fromarray(noise(24, 31)).save(buffer, format_)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    path = tmp_path_factory.getbasetemp() / f"broken.{format_}"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 2**20)  # a flipped bit of a size may ask for a gigabyte
        try:
            edited = translator(path, "red leather")
        except ImageError as error:
            assert "\n" not in str(error) and str(path) in str(error)
        else:
            assert isinstance(edited, Image.Image)


def test_a_decompression_bomb_is_refused(translator, tmp_path: Path):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(50_000, 50_000))
    with pytest.raises(ImageError, match=r"is too large: 50000x50000 are more than 300000000 pixels"):
        translator(path, "red leather")


def test_24_megapixels(translator):
    image = noise(4000, 6000)
    edited = translator(image, "blue fabric")
    assert np.array_equal(edited[:, 3400:], image[:, 3400:])
    change = edited[::50, :2600:50].astype(int) - image[::50, :2600:50]
    assert np.abs(change - np.rint(OFFSETS[1] * 127.5)).max() <= 1
    assert np.array_equal(translator(image, "blue fabric", 0), image)


def test_hundreds_of_images_leave_no_memory_behind(translator):
    sizes = [(64, 64), (90, 140), (400, 30), (1200, 900)]

    def edit(times: int) -> None:
        for number in range(times):
            picture = Image.fromarray(noise(*sizes[number % 4], seed=number))
            translator([picture, picture], "blue fabric", 0.5)

    edit(40)
    before = resident_mib()
    edit(120)
    assert resident_mib() - before < 10
