"""What comes out keeps what came in: format, EXIF, profile, XMP and DPI; exact where the format is lossless."""

import io

import numpy as np
import pytest
from peoples_images import EXIF_IFD, GPS_IFD, MAKE, ORIENTATION, encoded, exif, photograph, rgb_profile
from PIL import ExifTags, Image, ImageCms, JpegImagePlugin

from synth.images.reader import ImageError, read_image, sniff_format
from synth.images.writer import WRITTEN, check_format, encode_image, suffix_for, write_image, written_format

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF dc:creator="somebody"/></x:xmpmeta>'
LOSSLESS = ("PNG", "TIFF", "BMP")


def block_of(content: bytes) -> Image.Exif:
    """The EXIF of a file, as another program reads it."""
    block = Image.Exif()
    block.load(read_image(content).exif or b"")
    return block


@pytest.mark.parametrize("format", [name for name in WRITTEN if name != "BMP"])
def test_what_came_in_goes_out(format):
    # A JPEG carries all of it into every other format.
    source = encoded(
        photograph(), "JPEG", exif=exif(6).tobytes(), icc_profile=rgb_profile("Display P3"), dpi=(300, 300), xmp=XMP
    )
    photo = read_image(source)
    content = encode_image(photo, format)
    assert sniff_format(content) == format
    again = read_image(content)
    assert again.size == photo.size == (40, 60)
    assert np.abs(again.pixels.astype(int) - photo.pixels).mean() <= (0 if format in LOSSLESS else 3)
    assert again.icc_profile == rgb_profile("Display P3")
    assert again.xmp == XMP
    block = block_of(content)
    assert ORIENTATION not in block and block[MAKE] == "A maker"
    assert float(block.get_ifd(EXIF_IFD)[33434]) == pytest.approx(0.008)
    assert block.get_ifd(GPS_IFD)[1] == "N" and [float(n) for n in block.get_ifd(GPS_IFD)[2]] == [52.0, 31.0, 12.0]
    if format in ("PNG", "TIFF", "JPEG"):
        assert again.dpi == pytest.approx((300, 300), abs=0.1)


def test_a_tiff_says_nothing_of_its_layout_in_a_jpeg():
    source = encoded(photograph(), "TIFF", exif=exif(6).tobytes(), icc_profile=rgb_profile("Adobe RGB"), dpi=(96, 96))
    content = encode_image(read_image(source), "JPEG")
    block = block_of(content)
    assert block[MAKE] == "A maker"
    layout = (ExifTags.Base.ImageWidth, ExifTags.Base.StripOffsets, ExifTags.Base.InterColorProfile, 0x0103)
    assert not any(tag in block for tag in layout)
    assert block_of(encode_image(read_image(content), "TIFF"))[MAKE] == "A maker"


def test_the_sides_in_exif_are_the_upright_ones():
    block = exif(6)
    block[EXIF_IFD] = {40962: 60, 40963: 40}
    photo = read_image(encoded(photograph(), "JPEG", exif=block.tobytes()))
    kept = block_of(encode_image(photo)).get_ifd(EXIF_IFD)
    assert (kept[40962], kept[40963]) == photo.size == (40, 60)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "BMP"])
def test_lossless_formats_are_exact(format):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8))
    photo = read_image(encoded(noise, format, **({"lossless": True} if format == "WEBP" else {})))
    assert photo.is_lossless and written_format(photo.format) == format
    assert np.array_equal(read_image(encode_image(photo)).pixels, noise)
    if format != "BMP":
        noise.putalpha(Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 50), dtype=np.uint8)))
        photo = read_image(encoded(noise, format, **({"lossless": True, "exact": True} if format == "WEBP" else {})))
        assert np.array_equal(read_image(encode_image(photo)).to_pil(), noise)


def test_a_lossy_webp_stays_lossy():
    lossy, lossless = (encoded(photograph(300, 400), "WEBP", lossless=kind) for kind in (False, True))
    assert not read_image(lossy).is_lossless and read_image(lossless).is_lossless
    animated = encoded(photograph(), "WEBP", save_all=True, append_images=[photograph(seed=1)], lossless=True)
    assert read_image(animated).is_lossless
    with_profile = encoded(photograph(), "WEBP", lossless=False, icc_profile=rgb_profile("Adobe RGB"))
    assert b"VP8X" in with_profile and not read_image(with_profile).is_lossless


def test_a_jpeg_has_quality_95_and_all_of_its_colors():
    content = encode_image(read_image(encoded(photograph(), "JPEG", quality=30)))
    with (
        Image.open(io.BytesIO(content)) as image,
        Image.open(io.BytesIO(encoded(photograph(), "JPEG", quality=95))) as expected,
    ):
        assert image.quantization == expected.quantization
        assert JpegImagePlugin.get_sampling(image) == 0  # 4:4:4


def test_alpha_is_laid_on_white_where_the_format_has_none():
    rgba = Image.new("RGBA", (20, 10), (200, 0, 0, 51))
    for format in ("JPEG", "BMP"):
        pixels = read_image(encode_image(read_image(encoded(rgba)), format)).pixels
        assert np.abs(pixels[5, 5].astype(int) - [244, 204, 204]).max() <= 2


def test_formats_that_hold_no_photograph_become_png(tmp_path):
    gif = encoded(photograph().quantize(8), "GIF")
    assert sniff_format(encode_image(read_image(gif))) == "PNG"
    assert written_format("GIF") == written_format(None) == written_format("ICO") == "PNG"
    for name, content, suffix in (
        ("a.JPEG", encoded(photograph(), "JPEG"), ".jpeg"),
        ("a.tif", encoded(photograph(), "TIFF"), ".tif"),
        ("a.jpg", encoded(photograph(), "PNG"), ".png"),
        ("a.gif", gif, ".png"),
        ("a", encoded(photograph(), "JPEG"), ".jpg"),
        ("a.png", b"", ".png"),
    ):
        (tmp_path / name).write_bytes(content)
        assert suffix_for(tmp_path / name) == suffix
    assert suffix_for(tmp_path / "a.tif", "WEBP") == ".webp"


def test_what_cannot_be_written_is_said_in_one_line(tmp_path):
    lanky = read_image(Image.new("RGB", (70_000, 2)))
    for format, longest in (("JPEG", 65_500), ("WEBP", 16_383), ("AVIF", 65_536)):
        with pytest.raises(ImageError, match=f"of 70000x2 is longer than the {longest} pixels of {format}: use PNG"):
            encode_image(lanky, format)
    with pytest.raises(ImageError, match="cannot be written as GIF: use one of PNG, JPEG"):
        encode_image(lanky, "GIF")
    with pytest.raises(ImageError, match="the format gif cannot be written: use one of png, jpeg"):
        check_format("gif")
    assert check_format("Jpeg") == "JPEG"
    with pytest.raises(OSError):
        write_image(lanky, tmp_path / "absent" / "a.png", "PNG")


def test_long_exif_does_not_stop_a_jpeg():
    block = exif()
    block[EXIF_IFD] = {37500: b"x" * 70_000}
    photo = read_image(encoded(photograph(), "PNG", exif=block.tobytes()))
    assert photo.exif is not None and len(photo.exif) > 70_000
    assert block_of(encode_image(photo, "PNG")).get_ifd(EXIF_IFD)[37500] == b"x" * 70_000
    assert read_image(encode_image(photo, "JPEG")).exif is None


def test_a_gray_and_a_cmyk_photograph_carry_no_foreign_profile():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey = read_image(encoded(photograph().convert("L"), "JPEG", icc_profile=srgb))
    assert grey.icc_profile == srgb and np.array_equal(grey.pixels[..., 0], grey.pixels[..., 2])
    with Image.open(io.BytesIO(encode_image(read_image(encoded(photograph().convert("CMYK"), "JPEG"))))) as image:
        assert image.mode == "RGB" and "icc_profile" not in image.info
