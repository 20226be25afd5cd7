"""The one reader: whatever people bring, its pixels have the right values, upright, in 8-bit RGB."""

import io
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from hostile_images import bomb
from peoples_images import (
    ORIENTATION,
    SPACES,
    encoded,
    exif,
    grey_profile,
    in_srgb,
    ink_profile,
    photograph,
    png,
    rgb_profile,
)  # fmt: skip
from PIL import Image, ImageCms, ImageOps

from synth.images.reader import (
    FORMATS,
    ForeignFormatError,
    ImageError,
    NotAnImageError,
    SourceImage,
    TooLargeError,
    open_lazily,
    read_image,
    sniff_format,
)  # fmt: skip

RAMP = np.tile(np.arange(256, dtype=np.uint8), (4, 1))  # (4, 256), every grey


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_all_orientations_stand_upright(format):
    for orientation in range(1, 9):
        content = encoded(photograph(), format, exif=exif(orientation).tobytes())
        with Image.open(io.BytesIO(content)) as image:
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        photo = read_image(content)
        assert np.array_equal(photo.pixels, expected), orientation
        assert photo.size == ((40, 60) if orientation >= 5 else (60, 40))
        again = Image.Exif()
        again.load(photo.exif)
        assert ORIENTATION not in again and again[0x010F] == "A maker"


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "CMYK", "RGB"])
def test_a_file_is_read_as_its_bytes_are(tmp_path, mode):
    """Pillow maps some TIFFs into memory that it opens by their path, and turns them wrongly."""
    grey = np.asarray(photograph().convert("L"))
    image = Image.fromarray(grey.astype("<u2") * 257) if mode == "I;16" else photograph().convert(mode)
    upright = read_image(image).pixels
    (tmp_path / "a.tif").write_bytes(encoded(image, "TIFF", exif=exif(6).tobytes()))
    assert np.array_equal(read_image(tmp_path / "a.tif").pixels, np.rot90(upright, -1))


def test_an_orientation_in_xmp_counts_too():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:title="t"/></x:xmpmeta>'
    photo = read_image(encoded(photograph(), "JPEG", xmp=xmp))
    assert photo.size == (40, 60)
    assert photo.xmp is not None and b"Orientation" not in photo.xmp and b'dc:title="t"' in photo.xmp


def test_palettes_and_their_transparency():
    palette = Image.new("P", (3, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50, 0, 0, 255])
    palette.putdata([0, 1, 2])
    expected = [[[10, 20, 30], [200, 100, 50], [0, 0, 255]]]
    for options, alpha in (
        ({}, None),
        ({"transparency": 1}, [[255, 0, 255]]),
        ({"transparency": b"\x05\x80\xff"}, [[5, 128, 255]]),
    ):
        photo = read_image(encoded(palette, **options))
        assert photo.pixels.tolist() == expected
        assert (photo.alpha.tolist() if photo.alpha is not None else None) == alpha
    gif = read_image(encoded(palette, "GIF", transparency=2))
    assert gif.pixels.tolist()[0][:2] == expected[0][:2] and gif.alpha.tolist() == [[255, 255, 0]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "PA", "RGBX", "RGBA", "RGBa", "YCbCr", "HSV"])
def test_modes_of_pillow_keep_their_colors(mode):
    rgba = photograph().convert("RGBA")
    rgba.putalpha(Image.fromarray(np.full((40, 60), 255, np.uint8)))
    image = (
        rgba.convert("P").convert("PA")
        if mode == "PA"
        else rgba.convert(
            mode.upper() if mode in ("La", "RGBa") else mode if mode in ("1", "L", "LA", "RGBX", "RGBA") else "RGB"
        ).convert(mode)
    )
    assert image.mode == mode
    expected = np.asarray(
        (image.convert("LA") if mode == "La" else image).convert("RGBA" if mode == "RGBa" else "RGB").convert("RGB")
    )
    photo = read_image(image)
    assert np.array_equal(photo.pixels, expected)
    assert (photo.alpha is not None) == (mode.upper()[-1] == "A") and (
        photo.alpha is None or (photo.alpha == 255).all()
    )


def test_transparent_greys_of_few_bits():
    two = read_image(png(4, 1, 2, 0, bytes([0b00011011]), b"\x00\x02"))
    assert two.pixels[0, :, 0].tolist() == [0, 85, 170, 255] and two.alpha.tolist() == [[255, 255, 0, 255]]
    four = read_image(png(2, 1, 4, 0, bytes([0x7F]), b"\x00\x07"))
    assert four.pixels[0, :, 0].tolist() == [119, 255] and four.alpha.tolist() == [[0, 255]]
    one = read_image(png(2, 1, 1, 0, bytes([0b01000000]), b"\x00\x01"))
    assert one.pixels[0, :, 0].tolist() == [0, 255] and one.alpha.tolist() == [[255, 0]]


def test_sixteen_bits_with_a_transparent_color():
    grey = np.array([[0x1234, 0xFFFF, 257 * 100]], ">u2")
    photo = read_image(png(3, 1, 16, 0, grey.tobytes(), b"\x12\x34"))
    assert photo.pixels[0, :, 1].tolist() == [18, 255, 100] and photo.alpha.tolist() == [[0, 255, 255]]
    color = np.array([[[0x1234, 0x5678, 0x9ABC], [0xFFFF, 0, 257]]], ">u2")
    photo = read_image(png(2, 1, 16, 2, color.tobytes(), b"\x12\x34\x56\x78\x9a\xbc"))
    assert photo.alpha.tolist() == [[0, 255]] and np.abs(photo.pixels[0, 1].astype(int) - [255, 0, 1]).max() <= 1


def sixteen_bit_files() -> dict[str, bytes]:
    values = RAMP.astype(np.uint16) * 257
    files = {"png": png(256, 4, 16, 0, values.astype(">u2").tobytes())}
    for name, array, options in (
        ("little", values, {"byteorder": "<"}),
        ("big", values, {"byteorder": ">"}),
        ("32 bits", values.astype(np.int32), {}),
        ("float to 1", (RAMP / 255).astype(np.float32), {}),
        ("float to 255", RAMP.astype(np.float32), {}),
        ("float to 65535", values.astype(np.float32), {}),
    ):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, array, photometric="minisblack", **options)
        files[name] = buffer.getvalue()
    return files


@pytest.mark.parametrize("name", sixteen_bit_files())
def test_a_ramp_of_many_bits_stays_a_ramp(name):
    photo = read_image(sixteen_bit_files()[name])
    assert np.array_equal(photo.pixels, np.dstack([RAMP] * 3))


def test_sixteen_bit_color_is_scaled():
    values = (RAMP.astype(np.uint16) * 257)[..., None].repeat(3, axis=2)
    assert np.array_equal(read_image(png(256, 4, 16, 2, values.astype(">u2").tobytes())).pixels, values // 257)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, photometric="rgb")
    assert np.array_equal(read_image(buffer.getvalue()).pixels, values // 257)


@pytest.mark.parametrize("values", [[-1.0, 1.0], [0.0, np.nan], [0.0, np.inf], [0.5, 8.0], [0.0, 1e6]])
def test_numbers_without_a_range_are_refused(values):
    with pytest.raises(ImageError, match="which is not a range of images: convert it to 8 or 16 bits first"):
        read_image(Image.fromarray(np.array([values], np.float32)))


def test_inks_are_converted_by_their_profile():
    rgb = photograph()
    inks = rgb.convert("CMYK")
    profile = ink_profile()
    expected = ImageCms.profileToProfile(
        inks, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert np.abs(np.asarray(expected).astype(int) - np.asarray(rgb)).mean() > 10  # or this would show nothing
    photo = read_image(encoded(inks, "TIFF", icc_profile=profile))
    assert np.array_equal(photo.pixels, expected) and photo.icc_profile is None
    from_jpeg = read_image(encoded(inks, "JPEG", icc_profile=profile, quality=100))  # inverted, as Adobe writes it
    assert np.abs(from_jpeg.pixels.astype(int) - expected).max() <= 6 and from_jpeg.icc_profile is None
    assert np.array_equal(read_image(encoded(inks, "TIFF")).pixels, inks.convert("RGB"))


def test_lab_is_converted():
    colors = np.array([[[255, 255, 255], [200, 40, 40], [0, 128, 0], [30, 60, 200], [0, 0, 0]]], np.uint8)
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = to_lab.apply(Image.fromarray(colors))
    for source in (lab, encoded(lab, "TIFF")):
        assert np.abs(read_image(source).pixels.astype(int) - colors).max() <= 8  # 8 bits of Lab are coarse


def test_a_grey_profile_is_applied():
    photo = read_image(encoded(Image.fromarray(RAMP), icc_profile=grey_profile(1.0)))
    linear = RAMP[0] / 255
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert photo.icc_profile is None and np.abs(photo.pixels[0, :, 0] - expected).max() <= 1.5
    with_alpha = read_image(encoded(Image.fromarray(RAMP).convert("LA"), icc_profile=grey_profile(1.0)))
    assert np.array_equal(with_alpha.pixels, photo.pixels) and (with_alpha.alpha == 255).all()


@pytest.mark.parametrize("space", SPACES)
def test_an_rgb_profile_stays_and_is_seen_through(space):
    image = photograph()
    photo = read_image(encoded(image, icc_profile=rgb_profile(space)))
    assert np.array_equal(photo.pixels, image) and photo.icc_profile == rgb_profile(space)
    assert np.abs(photo.srgb() - in_srgb(np.asarray(image), space)).max() <= 2
    assert np.abs(photo.srgb().astype(int) - image).max() > 8


def test_srgb_needs_no_conversion():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photo = read_image(encoded(photograph(), icc_profile=profile))
    assert photo.srgb() is photo.pixels and photo.icc_profile == profile


@pytest.mark.parametrize("space", SPACES)
def test_a_change_returns_into_the_photographs_own_space(space):
    muted = Image.fromarray((np.asarray(photograph(64, 64)) // 8 + 112).astype(np.uint8))  # sRGB has all of these
    photo = read_image(encoded(muted, icc_profile=rgb_profile(space)))
    change = np.zeros((3, 64, 64), np.float32)
    change[0, :, :20] = 30 / 127.5
    edited = photo.with_change(change)
    assert np.array_equal(edited.pixels[:, 20:], photo.pixels[:, 20:])
    moved = edited.srgb().astype(int) - photo.srgb()
    assert np.abs(moved[:, :20] - [30, 0, 0]).max() <= 3
    naive = photo.pixels[:, :20] + np.array([30, 0, 0])
    assert np.abs(edited.pixels[:, :20] - naive).max() > 3  # 30 levels of sRGB are others there


def test_a_vivid_color_gives_way_to_another():
    """A green beyond sRGB is kept where nothing changes, and leaves nothing behind where red takes its place."""
    green = Image.new("RGB", (64, 64), (0, 255, 0))
    photo = read_image(encoded(green, icc_profile=rgb_profile("Display P3")))
    wanted = np.float32([200, 30, 40])
    change = np.zeros((3, 64, 64), np.float32)
    change[:, :, :32] = ((wanted - photo.srgb()[0, 0]) / 127.5)[:, None, None]
    edited = photo.with_change(change)
    assert np.array_equal(edited.pixels[:, 32:], photo.pixels[:, 32:])
    assert np.abs(edited.srgb()[:, :32] - wanted).max() <= 2


def test_colors_beyond_srgb_stay_where_nothing_changes():
    vivid = Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0]] * 4] * 8, np.uint8))
    photo = read_image(encoded(vivid, icc_profile=rgb_profile("ProPhoto")))
    assert np.array_equal(photo.with_change(np.zeros((3, 2, 2), np.float32)).pixels, vivid)


def test_profiles_that_do_not_fit_are_left_out():
    image = photograph()
    for profile in (ink_profile(), grey_profile()):
        photo = read_image(encoded(image, icc_profile=profile))
        assert np.array_equal(photo.srgb(), image) and photo.icc_profile is None and "does not fit" in photo.notes[0]
    inks = read_image(encoded(image.convert("CMYK"), "TIFF", icc_profile=rgb_profile("Adobe RGB")))
    assert np.array_equal(inks.pixels, image) and "does not fit" in inks.notes[0]
    for profile in (b"a profile", rgb_profile("Adobe RGB")[:300], b"\0" * 500):
        photo = read_image(encoded(image, icc_profile=profile))
        assert np.array_equal(photo.srgb(), image) and "broken" in photo.notes[0]
        assert np.array_equal(photo.with_change(np.zeros((3, 4, 4), np.float32)).pixels, image)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_broken_exif_block_costs_no_image():
    whole = exif(6).tobytes()
    for block in (whole[:20], b"Exif\0\0junk" * 5, b"Exif\0\0MM\0*\0\0\xff\xff" + bytes(9), whole[:-30], b"Exif\0\0"):
        for format in ("JPEG", "PNG", "WEBP"):
            photo = read_image(encoded(photograph(), format, exif=block, quality=98))
            assert sorted(photo.size) == [40, 60]
            assert photo.exif is not None or len(block) <= 20 or "EXIF block is broken" in photo.notes[0]
            pixels = photo.pixels if photo.size == (60, 40) else np.rot90(photo.pixels)
            assert np.abs(pixels.astype(int) - photograph()).mean() <= 4


def test_animations_give_their_first_frame_and_say_so(tmp_path):
    frames = [Image.new("RGB", (9, 7), color) for color in ("red", "green", "blue")]
    kinds = {"GIF": "frames", "WEBP": "frames", "PNG": "frames", "TIFF": "pages", "MPO": "frames", "AVIF": "frames"}
    for format, kind in kinds.items():
        photo = read_image(encoded(frames[0], format, save_all=True, append_images=frames[1:]))
        assert photo.notes == (f"the first of 3 {kind}",), format
        assert np.abs(photo.pixels.astype(int) - [255, 0, 0]).max() <= 6
        assert photo.format == ("JPEG" if format == "MPO" else format)
        assert read_image(encoded(frames[0], "JPEG" if format == "MPO" else format)).notes == ()


def test_alpha_is_kept_or_laid_on_a_ground():
    rgba = np.dstack([np.asarray(photograph()), np.linspace(0, 255, 60).astype(np.uint8)[None].repeat(40, axis=0)])
    photo = read_image(encoded(Image.fromarray(rgba)))
    assert np.array_equal(photo.to_pil(), rgba)
    share = rgba[..., 3:] / 255
    for ground in (255, 0):
        assert np.abs(photo.on_ground(ground) - (rgba[..., :3] * share + ground * (1 - share))).max() <= 0.51


@pytest.mark.parametrize("format", FORMATS)
def test_formats_are_told_by_content_and_cut_files_refused(tmp_path, format):
    content = encoded(photograph(200, 300), format)
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    assert sniff_format(path) == format == read_image(path).format
    for share in (0.5, 0.9):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ImageError, match=r"a\.txt cannot be read as an image: "):
            read_image(path)


def test_what_is_no_image_is_refused_in_one_line(tmp_path):
    for content in (b"", b"hello", b"%PDF-1.4", b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + bytes(40)):
        with pytest.raises(NotAnImageError) as caught:
            read_image(content)
        assert "\n" not in str(caught.value) and sniff_format(content) is None
    with pytest.raises(TooLargeError, match="50000x50000 are more than 300000000 pixels"):
        open_lazily(bomb(50_000, 50_000)).__enter__()
    with pytest.raises(ImageError, match=r"no image at .*absent\.png: check the path"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(ImageError, match="is empty: its size is 0x5"):
        read_image(Image.new("RGB", (0, 5)))
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((8, 8, 3), np.uint8), photometric="rgb", subfiletype=1)
    with pytest.raises(ForeignFormatError, match="raw file of a camera"):
        read_image(buffer.getvalue())


def test_heic_is_read_with_its_package_and_named_without(tmp_path):
    path = tmp_path / "a.heic"
    turned = photograph()
    turned.info["exif"] = exif(6).tobytes()
    path.write_bytes(encoded(turned, "HEIF", quality=95))
    photo = read_image(path)
    assert photo.format == "HEIF" and photo.size == (40, 60)
    assert np.abs(np.rot90(photo.pixels).astype(int) - photograph()).mean() <= 4
    code = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'pillow_heif' else find(name, *rest)\n"
        "import sys; from synth.images.reader import ImageError, read_image\n"
        "try:\n    read_image(sys.argv[1])\nexcept ImageError as error:\n    print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == f"{path} is a HEIC image, which needs one more package: pip install pillow-heif"


def test_tiny_and_lanky_images_and_tiles(monkeypatch):
    assert read_image(encoded(Image.new("RGB", (1, 1), (1, 2, 3)))).pixels.tolist() == [[[1, 2, 3]]]
    lanky = np.random.default_rng(0).integers(0, 256, (2, 70_000, 3), dtype=np.uint8)
    photo = read_image(encoded(Image.fromarray(lanky)))
    assert np.array_equal(photo.pixels, lanky)
    change = np.random.default_rng(1).normal(0, 0.2, (3, 8, 40)).astype(np.float32)
    whole = photo.with_change(change).pixels
    monkeypatch.setattr("synth.images.reader.STRIP_PIXELS", 500)
    monkeypatch.setattr("synth.images.reader.MAX_COLUMNS", 999)
    assert np.array_equal(read_image(encoded(Image.fromarray(lanky))).pixels, lanky)
    assert np.abs(photo.with_change(change).pixels.astype(int) - whole).max() <= 1  # no seams


def test_what_was_read_is_read_again_as_it_is():
    photo = read_image(encoded(photograph()))
    assert isinstance(photo, SourceImage) and read_image(photo) is photo


def test_reading_takes_few_bytes_a_pixel(tmp_path):
    """The whole of a translation is measured in tests/slow, on 200 megapixels."""
    for name, image in (("a.png", photograph(3000, 4000)), ("b.png", photograph(3000, 4000).convert("RGBA"))):
        (tmp_path / name).write_bytes(encoded(image, compress_level=1, exif=exif(6).tobytes()))
        code = (
            "import resource, sys; from synth.images.reader import read_image\n"
            "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
            "before = peak(); read_image(sys.argv[1]).srgb(); print(peak() - before)"
        )
        run = [sys.executable, "-c", code, str(tmp_path / name)]
        taken = int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
        assert taken / 12_000_000 <= 12.5
