"""Read the images that people have, and write them back with what they brought: numpy and Pillow alone.

    photo = read_image("photo.jpg")
    photo.srgb()                       # uint8 (H, W, 3), what a network sees
    edited = photo.with_change(change) # the change laid on; what it leaves alone stays equal, bit for bit
    edited.to_pil()                    # a PIL image, with profile, EXIF, XMP and DPI in its `info`

Copy this file and `enlargement.py` together with `runtime.py`, which imports them; they need nothing else of the
project.

Everything becomes upright 8-bit RGB, with alpha aside: palettes, greyscale, 16 bits and floats (by their smallest
usual range), inks and LAB (through their profile). An RGB profile stays on its pixels, and whoever looks at them
converts them. A broken profile or EXIF block costs itself, not the image; `notes` say so.

    ImageError               one line that says which image, and what is wrong with it
    ├── NotAnImageError      in none of FORMATS
    │   └── ForeignFormatError   an image nevertheless: a HEIC without its package, a camera's raw file
    └── TooLargeError        of more than MAX_PIXELS
"""

import io
import math
import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageCms, features

try:
    from synth.images import enlargement
except ModuleNotFoundError:  # copied out of the project
    import enlargement  # type: ignore[import-not-found, no-redef]

# Not all of Pillow's: some of its readers start other programs (EPS starts Ghostscript).
FORMATS = (
    *("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"),
    *(("AVIF",) if features.check("avif") else ()),
    *(("HEIF",) if find_spec("pillow_heif") else ()),
)
"""The formats that are opened, whatever a file's name; HEIF (.heic) where the package pillow-heif is installed."""
for _plugin in ("Png", "Jpeg", "WebP", "Gif", "Bmp", "Tiff", *(("Avif",) if "AVIF" in FORMATS else ())):
    import_module(f"PIL.{_plugin}ImagePlugin")  # each fills in its place in Image.OPEN
SUFFIXES = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".hif"),
}
"""The endings of each format's files, the usual one first."""
MAX_PIXELS = 300_000_000
"""Of an image, checked before it is decoded: the largest phones take 200 megapixels, bombs say billions."""
STRIP_PIXELS = 2**20  # worked on at a time: bounds memory whatever an image's size
MAX_COLUMNS = 2**16  # of a strip
# What shrinks by more than twice this is averaged to it first: Lanczos over an axis of millions takes seconds.
REDUCING_GAP = 16.0
REPLACED = 51  # levels: a color that changes by so much is another one
WHITE = 255

_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_HEAD_BYTES = 64  # of a file, which tell its format
# What a TIFF says of its own layout, its profile and its XMP, among what EXIF says of the photograph.
_LAYOUT_TAGS = (
    *(254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 284, 288, 289, 290, 291),
    *(292, 293, 297, 301, 317, 318, 319, 320, 321, 322, 323, 324, 325, 330, 332, 333, 334, 336, 337, 338, 339, 340),
    *(341, 342, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 700, 34377, 34675),
)

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
Source = str | os.PathLike[str] | bytes | BinaryIO | Image.Image


class ImageError(ValueError):
    """An image cannot be read or written; the message is one line."""


class NotAnImageError(ImageError):
    """The file is in none of FORMATS."""


class ForeignFormatError(NotAnImageError):
    """The file is an image in a format that is not read here, such as a HEIC without pillow-heif."""


class TooLargeError(ImageError):
    """The image has more than MAX_PIXELS."""


@dataclass(frozen=True)
class SourceImage:
    """An image as it came in, upright, and all that goes out with it again."""

    pixels: UInt8Array
    """(H, W, 3), in the image's own RGB space: that of `icc_profile`, or sRGB."""
    alpha: UInt8Array | None = None
    """(H, W), 0 is transparent."""
    icc_profile: bytes | None = None
    """Of an RGB space; one that is broken counts as sRGB."""
    exif: bytes | None = None
    """Without orientation, thumbnail and layout; never to be passed on to a third person: it tells places."""
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    format: str = "PNG"
    """In which it came, and goes out again: one of FORMATS; for one that cannot hold the result, another."""
    is_lossless: bool = True
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What was left out, a few words each: "the first of 12 frames"."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        height, width = self.pixels.shape[:2]
        return width, height

    def srgb(self) -> UInt8Array:
        """Return uint8 (H, W, 3) in sRGB, alpha left aside; `pixels` itself where they are in sRGB."""
        if self.icc_profile is None or _is_srgb(self.icc_profile):
            return self.pixels
        to_srgb = _transform(self.icc_profile, None)
        seen = np.empty_like(self.pixels)
        for rows, columns in _tiles(*self.pixels.shape[:2]):
            seen[rows, columns] = _applied(to_srgb, self.pixels[rows, columns])
        return seen

    def on_ground(self, ground: int = WHITE) -> UInt8Array:
        """Return uint8 (H, W, 3) in sRGB, laid on a grey of `ground` (0 to 255) where it is transparent."""
        return self.srgb() if self.alpha is None else laid_on(self.srgb(), self.alpha, ground)

    def reduced(self, height: int, width: int) -> UInt8Array:
        """Return what a network is shown: `srgb()`, uint8 (height, width, 3), antialiased."""
        seen = self.srgb()
        if seen.shape[:2] == (height, width):
            return seen
        image = Image.fromarray(seen)
        return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=REDUCING_GAP))

    def with_change(self, change: FloatArray, reduced: UInt8Array | None = None) -> "SourceImage":
        """Lay a change of the sRGB pixels onto the image.

        Args:
            change: float32 (3, h, w); 2.0 is the way from black to white. It is brought to the image's size: where
                neither side of the image is shorter, along the image's own edges (see `enlargement`).
            reduced: `reduced(h, w)`, if it is at hand.

        Returns:
            The changed image. In another RGB space than sRGB, the changed color is taken there: a pixel whose sRGB
            values stay the same stays the same, bit for bit.
        """
        height, width = self.pixels.shape[:2]
        profile = None if self.icc_profile is None or _is_srgb(self.icc_profile) else self.icc_profile
        there, back = (_transform(profile, None), _transform(None, profile)) if profile else (None, None)
        h, w = change.shape[1:]
        fit = None
        if (h, w) != (height, width) and h <= height and w <= width:
            fit = enlargement.fit_change(change, self.reduced(h, w) if reduced is None else reduced)
        edited = np.empty_like(self.pixels)
        for rows, columns in _tiles(height, width):
            own = self.pixels[rows, columns]  # (rows, columns, 3)
            seen = own if there is None else _applied(there, own)
            if fit is None:
                levels = _scaled(change, rows, columns, height, width) * np.float32(127.5)  # (rows, columns, 3)
            else:
                levels = enlargement.apply_fit(fit, seen, rows, columns, (height, width))
            levels += seen
            wanted = np.clip(np.rint(levels, out=levels), 0, 255, out=levels).astype(np.uint8)
            if back is None:
                edited[rows, columns] = wanted
                continue
            # What its profile says beyond sRGB stays with a color that hardly changes, and goes with one that does.
            moved = np.abs(wanted.astype(np.int16) - seen).max(axis=2, keepdims=True)  # (rows, columns, 1)
            beyond = own.astype(np.float32) - _applied(back, seen)
            beyond *= np.maximum(0, 1 - moved / np.float32(REPLACED))
            edited[rows, columns] = np.clip(np.rint(beyond + _applied(back, wanted)), 0, 255)
        return replace(self, pixels=edited)

    def to_pil(self) -> Image.Image:
        """Return a PIL image, RGB or RGBA, with profile, EXIF, XMP and DPI in its `info`."""
        image = Image.fromarray(self.pixels)
        if self.alpha is not None:
            image.putalpha(Image.fromarray(self.alpha))
        kept = {"icc_profile": self.icc_profile, "exif": self.exif, "xmp": self.xmp, "dpi": self.dpi}
        image.info |= {key: value for key, value in kept.items() if value is not None}
        return image


def read_image(source: "Source | SourceImage") -> SourceImage:
    """Read an image whole.

    Args:
        source: a path, a file's bytes, a binary file, a PIL image of any mode, or what this function returned.

    Raises:
        ImageError: if it cannot be read: no such file, broken, cut short, empty, or numbers without a known range.
        NotAnImageError, TooLargeError: see there.
    """
    if isinstance(source, SourceImage):
        return source
    if isinstance(source, Image.Image):
        with _explained("the image"):
            return _read(source, "the image")
    name = name_of(source)
    with open_lazily(source) as image, _explained(name):
        photo = _read(image, name)
        return replace(photo, is_lossless=_is_lossless(source, photo.format)) if photo.format == "WEBP" else photo


@contextmanager
def open_lazily(
    source: str | os.PathLike[str] | bytes | BinaryIO, max_pixels: int = MAX_PIXELS
) -> Iterator[Image.Image]:
    """Open an image and read its header, not its pixels: its `size` is not yet upright.

    Raises:
        ImageError, NotAnImageError, TooLargeError: see `read_image`.
    """
    name = name_of(source)
    with ExitStack() as opened:
        with _explained(name):
            # Pillow turns some TIFFs wrongly that it opens by their path, and maps into memory.
            if isinstance(source, str | os.PathLike):
                file: BinaryIO = opened.enter_context(open(source, "rb"))
            else:
                file = io.BytesIO(source) if isinstance(source, bytes) else source
            plugin = _plugin_for(_first_bytes(file), name)
            try:
                # By its plugin, because `Image.open` refuses what a phone takes, by a limit of the whole process.
                image = opened.enter_context(plugin(file, ""))
            except (SyntaxError, IndexError, TypeError, struct.error) as error:  # Pillow's, of a header
                raise NotAnImageError(f"{name} cannot be read as an image: its header is broken") from error
            _check(image, name, max_pixels)
        yield image


def sniff_format(source: str | os.PathLike[str] | bytes) -> str | None:
    """Return which of FORMATS a file is in by its first bytes, whatever its name; None for none, or no file."""
    if isinstance(source, bytes):
        return _format_of(source[:_HEAD_BYTES])
    try:
        with open(source, "rb") as file:
            return _format_of(_first_bytes(file))
    except (OSError, ValueError):
        return None


def name_of(source: object) -> str:
    """Return what messages call a source: its path, or "the image"."""
    return os.fsdecode(source) if isinstance(source, str | os.PathLike) else "the image"


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn whatever Pillow's readers stumble over into an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"no image at {name}: check the path") from error
    except Exception as error:  # they share no base class, and raise what a broken file makes them stumble over
        raise ImageError(f"{name} cannot be read as an image: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or else the name of its class."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _first_bytes(file: BinaryIO) -> bytes:
    prefix = file.read(_HEAD_BYTES)
    file.seek(0)
    return prefix


def _format_of(prefix: bytes) -> str | None:
    """Return which of FORMATS a file with these first bytes is in."""
    if prefix[4:8] == b"ftyp":  # HEIC and AVIF share a container; its brands tell them apart
        end = min(len(prefix), int.from_bytes(prefix[:4]))
        brands = {prefix[8:12], *(prefix[at : at + 4] for at in range(16, end, 4))}
        name = "AVIF" if brands & {b"avif", b"avis"} else "HEIF" if brands & _HEIC_BRANDS else None
        return name if name in FORMATS else None
    accepts = {name: Image.OPEN[name][1] for name in FORMATS if name in Image.OPEN}
    return next((name for name, accept in accepts.items() if accept is not None and accept(prefix) is True), None)


def _plugin_for(prefix: bytes, name: str) -> Callable[..., Any]:
    """Find the plugin that opens a file with these first bytes."""
    format = _format_of(prefix)
    if format == "HEIF":
        from pillow_heif import HeifImageFile

        return HeifImageFile
    if format is not None:
        return Image.OPEN[format][0]
    if not prefix:
        raise NotAnImageError(f"{name} cannot be read as an image: it has no bytes")
    if prefix[4:8] == b"ftyp" and any(brand in prefix for brand in _HEIC_BRANDS):
        raise ForeignFormatError(f"{name} is a HEIC image, which needs one more package: pip install pillow-heif")
    raise NotAnImageError(
        f"{name} cannot be read as an image: it is no image, or in none of the formats {', '.join(FORMATS)}"
    )


def _check(image: Image.Image, name: str, max_pixels: int) -> None:
    """Refuse by the header what is not to be decoded."""
    width, height = image.size
    if width * height > max_pixels:
        raise TooLargeError(f"{name} is too large: {width}x{height} are more than {max_pixels} pixels; scale it down")
    tags = getattr(image, "tag_v2", {})
    if 50706 in tags or tags.get(254, 0) == 1:  # DNGVersion; a first page that is a reduced copy
        raise ForeignFormatError(
            f"{name} is a raw file of a camera, with a thumbnail that can be read: develop it first"
        )


def _read(image: Image.Image, name: str) -> SourceImage:
    if 0 in image.size:
        raise ImageError(f"{name} is empty: its size is {image.width}x{image.height}")
    notes = _frames_note(image)
    key = _transparent_color(image)
    image.load()
    pixels, alpha, profile, color_notes = _colors(image, key, name)
    orientation, exif, exif_notes = _exif_of(image)
    if orientation > 1:
        pixels, alpha = _upright(pixels, orientation), None if alpha is None else _upright(alpha, orientation)
    format = "JPEG" if image.format == "MPO" else image.format or "PNG"
    return SourceImage(
        pixels,
        alpha,
        profile,
        None if exif is None else _exif_bytes(exif, pixels.shape[1], pixels.shape[0]),
        _xmp_of(image),
        _dpi_of(image),
        format,
        _is_lossless(image, format),
        (*notes, *color_notes, *exif_notes),
    )


def _frames_note(image: Image.Image) -> tuple[str, ...]:
    try:
        count = getattr(image, "n_frames", 1)
    except Exception:  # counting reads the whole file, of which only the first frame has to be whole
        return ()
    kind = "pages" if image.format == "TIFF" else "frames"
    return (f"the first of {count} {kind}",) if count > 1 and image.tell() == 0 else ()


def _tiles(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Cut an image into tiles of about STRIP_PIXELS, as slices of rows and columns."""
    columns = min(width, MAX_COLUMNS)
    rows = max(1, STRIP_PIXELS // columns)
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield slice(top, min(top + rows, height)), slice(left, min(left + columns, width))


def _scaled(change: FloatArray, rows: slice, columns: slice, height: int, width: int) -> FloatArray:
    """float32 (3, h, w) -> one tile, (rows, columns, 3), of what it is at (height, width), by a cubic."""
    down, across = change.shape[1] / height, change.shape[2] / width
    # Pillow reads beyond the box where its cubic needs to, so that tiles meet without seams.
    box = (columns.start * across, rows.start * down, columns.stop * across, rows.stop * down)
    size = (columns.stop - columns.start, rows.stop - rows.start)
    box = (box[0], box[1], min(box[2], change.shape[2]), min(box[3], change.shape[1]))
    planes = [Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC, box=box) for plane in change]
    return np.stack([np.asarray(plane) for plane in planes], axis=2)


# From any mode to 8-bit RGB and alpha.


def _colors(
    image: Image.Image, key: Any, name: str
) -> tuple[UInt8Array, UInt8Array | None, bytes | None, tuple[str, ...]]:
    """Decode a loaded image of any mode.

    Args:
        image: its pixels, not turned upright.
        key: the color that is transparent, if there is one.
        name: for messages.

    Returns:
        uint8 (H, W, 3), alpha (H, W) or None, the RGB profile that stays on the pixels or None, and notes.
    """
    profile, to_rgb, notes = _profile_of(image)
    eight_bits = _eight_bits(image, name)

    def opaque(tile: Image.Image) -> Image.Image:
        tile.info.pop("transparency", None)
        tile = _straight(eight_bits(tile))
        if to_rgb is not None:
            # The transform has its say about the colors; alpha stays aside.
            return to_rgb.apply(tile.convert(to_rgb.input_mode))
        return tile.convert("RGB")

    def alpha_of(tile: Image.Image) -> Any:
        if tile.mode.startswith("I"):
            return np.where(np.asarray(tile) == key, np.uint8(0), np.uint8(255))
        if key is not None:
            tile.info["transparency"] = key
        return _straight(tile).convert("RGBA").getchannel("A")

    alpha = _decoded(image, alpha_of, 1)[..., 0] if image.has_transparency_data and image.mode != "F" else None
    return _decoded(image, opaque, 3), alpha, profile, notes


def _straight(image: Image.Image) -> Image.Image:
    """Return the image without premultiplied alpha, which few of Pillow's conversions know."""
    return image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode]) if image.mode in ("La", "RGBa") else image


def _decoded(image: Image.Image, convert: Callable[[Image.Image], Any], bands: int) -> UInt8Array:
    """Convert an image tile by tile: Pillow holds 4 bytes a pixel, and each conversion of the whole 4 more."""
    pixels = np.empty((image.height, image.width, bands), np.uint8)
    for rows, columns in _tiles(image.height, image.width):
        tile = convert(image.crop((columns.start, rows.start, columns.stop, rows.stop)))
        pixels[rows, columns] = np.asarray(tile).reshape(pixels[rows, columns].shape)
    return pixels


def _transparent_color(image: Image.Image) -> Any:
    """Return the color that a file says is transparent, in the numbers that Pillow gives its pixels.

    Pillow scales grey of 2 and 4 bits up to 8 and 16-bit RGB down, and leaves this color as the file has it.
    """
    key = image.info.get("transparency")
    if image.mode == "L" and isinstance(key, int):
        depth = {"L;2": 85, "L;4": 17}
        return key * next((depth[tile[3]] for tile in getattr(image, "tile", ()) if tile[3] in depth), 1)
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        return tuple(value >> 8 for value in key)
    return key


def _eight_bits(image: Image.Image, name: str) -> Callable[[Image.Image], Image.Image]:
    """Return what makes 8 bits of a tile; the range of 32-bit numbers follows from all of the image."""
    if image.mode.startswith("I;16"):
        # 65535 / 255 is 257: exactly what 8 bits made 16 is itself again.
        return lambda tile: Image.fromarray(((np.asarray(tile).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode not in ("I", "F"):
        return lambda tile: tile
    low, high = _extremes(image)
    if image.mode == "I":
        top = next((top for top in (255, 65535) if high <= top), 0)
        fits = low >= 0
    else:
        # Scaling and sharpening overshoot a little. Between 1 and 255 lies what is brighter than white.
        top = next((top for top in (1, 255, 65535) if high <= 1.2 * top), 0)
        fits = low >= -0.2 * top and not 1.2 < high < 16
    if not top or not fits:
        numbers = f"numbers from {low:g} to {high:g}"
        raise ImageError(f"{name} has {numbers}, which is not a range of images: convert it to 8 or 16 bits first")

    def scaled(tile: Image.Image) -> Image.Image:
        levels = np.rint(np.asarray(tile).astype(np.float32) * np.float32(255 / top))
        return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))

    return scaled


def _extremes(image: Image.Image) -> tuple[float, float]:
    """Return the least and the greatest number of an image of one band; not finite if any of them is not."""
    low, high = math.inf, -math.inf
    for rows, columns in _tiles(image.height, image.width):
        values = np.asarray(image.crop((columns.start, rows.start, columns.stop, rows.stop)))
        # np.minimum passes a NaN on, as min of Python does not.
        low, high = float(np.minimum(low, values.min())), float(np.maximum(high, values.max()))
    return low, high


def _upright(pixels: UInt8Array, orientation: int) -> UInt8Array:
    """Turn an array (H, W, ...) as EXIF's orientation, 2 to 8, asks for."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def laid_on(pixels: UInt8Array, alpha: UInt8Array, ground: int) -> UInt8Array:
    """uint8 (H, W, 3) under alpha, uint8 (H, W) -> uint8 (H, W, 3) on a grey of `ground`, 0 to 255."""
    laid = np.empty_like(pixels)
    for rows, columns in _tiles(*alpha.shape):
        share = alpha[rows, columns, None].astype(np.uint32)
        laid[rows, columns] = (pixels[rows, columns] * share + ground * (255 - share) + 127) // 255
    return laid


# Color profiles.


def _profile_of(
    image: Image.Image,
) -> tuple[bytes | None, ImageCms.ImageCmsTransform | None, tuple[str, ...]]:
    """Decide what becomes of an image's profile.

    Returns:
        An RGB profile that stays on the pixels, or else the transform that makes sRGB of them where there is one,
        and notes.
    """
    if image.mode == "LAB":
        return None, ImageCms.buildTransform(ImageCms.createProfile("LAB"), _SRGB, "LAB", "RGB"), ()
    data = image.info.get("icc_profile")
    if not data:
        return None, None, ()
    grey = image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
    fitting = ("CMYK",) if image.mode == "CMYK" else ("GRAY", "RGB") if grey else ("RGB",)
    try:
        space = ImageCms.ImageCmsProfile(io.BytesIO(data)).profile.xcolor_space.strip()
        if space not in fitting:
            return None, None, (f"its color profile, of {space}, does not fit its pixels and is left out",)
        to_srgb = _transform(data, None, {"GRAY": "L"}.get(space, space))
    except Exception:  # littlecms refuses it: OSError, PyCMSError and others
        # What nobody can apply may stay where it was.
        return bytes(data) if fitting == ("RGB",) else None, None, ("its color profile is broken: taken for sRGB",)
    if space != "RGB":
        return None, to_srgb, ()
    try:
        _transform(None, data)
    except Exception:  # a scanner's, say, has a way from its colors and none to them
        return None, to_srgb, ()
    return bytes(data), None, ()


_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _transform(source: bytes | None, target: bytes | None, mode: str = "RGB") -> ImageCms.ImageCmsTransform:
    """Build a transform of 8-bit pixels from `mode` to RGB, between two profiles; None is sRGB."""
    here, there = (_SRGB if data is None else ImageCms.ImageCmsProfile(io.BytesIO(data)) for data in (source, target))
    # littlecms's short cut through grey is wrong by up to nine levels in the shadows.
    flags = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
    return ImageCms.ImageCmsTransform(here, there, mode, "RGB", flags=flags)


def _applied(transform: ImageCms.ImageCmsTransform, pixels: UInt8Array) -> UInt8Array:
    """uint8 (h, w, 3) -> uint8 (h, w, 3)."""
    return np.asarray(transform.apply(Image.fromarray(pixels)))


@lru_cache(maxsize=32)
def _is_srgb(profile: bytes) -> bool:
    """Return whether a profile leaves colors as they are, but for rounding (there are many of sRGB), or is broken."""
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(18, -1, 3)
    try:
        seen = _applied(_transform(profile, None), cube)
    except Exception:  # littlecms refuses it: OSError, PyCMSError and others
        return True
    return int(np.abs(seen.astype(int) - cube).max()) <= 1


# What a file says beside its pixels.


def _exif_of(image: Image.Image) -> tuple[int, Image.Exif | None, tuple[str, ...]]:
    """Read the orientation, 1 to 8, and the rest of EXIF that goes out again, if any."""
    try:
        found = image.getexif()
        given = found.get(ExifTags.Base.Orientation, 1)
        orientation = given if given in range(1, 9) else 1
        kept = Image.Exif()
        kept.endian = found.endian
        # A TIFF's resolution is its own; EXIF of other formats may say it once more.
        left_out = {*_LAYOUT_TAGS, ExifTags.Base.Orientation, *((282, 283, 296) if image.format == "TIFF" else ())}
        for tag in found:
            if tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
                kept[tag] = dict(found.get_ifd(tag))
            elif tag not in left_out:
                kept[tag] = found[tag]
        if interop := found.get_ifd(ExifTags.IFD.Interop):
            kept[ExifTags.IFD.Exif][ExifTags.IFD.Interop] = dict(interop)
        kept.tobytes()
        block = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
        if not len(found) and len(block) > 14:  # what an empty one has
            raise ValueError("no tags")
    except Exception:  # Pillow's reader raises what a broken block makes it stumble over
        return 1, None, ("its EXIF block is broken and left out",)
    return orientation, kept if len(kept) else None, ()


def _exif_bytes(exif: Image.Exif, width: int, height: int) -> bytes:
    """Encode EXIF, with the upright image's sides where it names any."""
    below = exif.get(ExifTags.IFD.Exif, {})
    for tag, side in ((ExifTags.Base.ExifImageWidth, width), (ExifTags.Base.ExifImageHeight, height)):
        if tag in below:
            below[tag] = side
    return exif.tobytes()


def _xmp_of(image: Image.Image) -> bytes | None:
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if not isinstance(xmp, str | bytes) or not xmp:
        return None
    data = xmp.encode() if isinstance(xmp, str) else xmp
    return re.sub(rb'tiff:Orientation="\d+"|<tiff:Orientation>\d+</tiff:Orientation>', b"", data)


def _dpi_of(image: Image.Image) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 1 < across < 2**16 and 1 < down < 2**16 else None  # 1 is Pillow's for none


def _is_lossless(source: Any, format: str) -> bool:
    """Return whether a format keeps pixels as they are; of WebP's two kinds, the file says which it is."""
    if format != "WEBP" or isinstance(source, Image.Image):
        return format not in ("JPEG", "AVIF", "HEIF")
    if isinstance(source, str | os.PathLike):
        with open(source, "rb") as opened:
            return _is_lossless(opened, format)
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    file.seek(12)
    while len(head := file.read(8)) == 8:
        kind, length = head[:4], int.from_bytes(head[4:], "little")
        if kind in (b"VP8 ", b"VP8L"):
            return kind == b"VP8L"
        # A frame of an animation has 16 bytes, and then chunks of its own.
        file.seek(16 if kind == b"ANMF" else length + length % 2, os.SEEK_CUR)
    return True
