"""Run a model file: pictures in, edited pictures out, with numpy, Pillow and onnxruntime alone.

    translator = Translator.load("model.onnx")
    translator("room.jpg", "red leather").save("room-red.png")

Copy this one file into a program of your own; it needs nothing else of the project.
"""

import difflib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from PIL import Image, ImageOps

SCHEMA_VERSION = 1
"""Version of the metadata and of the graph's inputs and output that this file reads and `export` writes."""
METADATA_PREFIX = "distillery."
"""Each property of the ONNX file under this prefix is one JSON value, e.g. `distillery.edits`."""

MAX_BATCH = 8  # images in one pass of the network: bounds memory whatever the length of a list
MAX_ASPECT = 4.0  # longer pictures are squeezed to this for the network alone; their own size returns

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]


class TranslatorError(ValueError):
    """Root of this module's errors; the message is one line that says what was wrong and what to do."""


class ModelFileError(TranslatorError):
    """The model file is missing, broken, or was not made by this project."""


class ImageError(TranslatorError):
    """A picture cannot be read or has the wrong shape or type."""


class EditError(TranslatorError):
    """The model does not know this edit, or the strength is not a number."""


@dataclass(frozen=True)
class _Picture:
    """A picture as it came in, opened: what the network edits, and what goes back untouched."""

    rgb: UInt8Array  # (H, W, 3)
    alpha: Image.Image | None
    icc_profile: bytes | None
    as_array: bool

    def with_pixels(self, rgb: UInt8Array) -> Any:
        """The edited pixels as the kind of thing that came in, alpha and colour profile put back."""
        if self.as_array:
            return rgb
        image = Image.fromarray(rgb)
        if self.alpha is not None:
            image.putalpha(self.alpha)
        if self.icc_profile:
            image.info["icc_profile"] = self.icc_profile
        return image


class Translator:
    """A distilled network that makes its edits in one pass. Safe to share between threads."""

    metadata: dict[str, Any]
    """All that the file says about itself: teacher, licence, metrics, what it was validated on."""
    edits: dict[str, str]
    """Names of the edits, each with its target prompt."""

    def __init__(self, session: ort.InferenceSession, metadata: dict[str, Any]):
        self._session = session
        self.metadata = metadata
        self.edits = metadata["edits"]
        self._training_size = int(metadata["training_size"])
        self._size_multiple = int(metadata["size_multiple"])

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Translator":
        """Open a model file, on the GPU where onnxruntime has one.

        Raises ModelFileError when it is missing, not ONNX, not one of ours or of a newer schema.
        """
        path = Path(path)
        if not path.is_file():
            raise ModelFileError(f"no model file at {path}: check the path, or make one with `distillery export`")
        options = ort.SessionOptions()
        options.log_severity_level = 4  # its errors come as exceptions, its warnings are about its own graph
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [provider for provider in wanted if provider in ort.get_available_providers()]
        try:
            session = ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            reason = str(error).splitlines()[0]
            raise ModelFileError(f"{path} is not an ONNX model that onnxruntime can load: {reason}") from error
        return cls(session, _read_metadata(session, path))

    @overload
    def __call__(self, images: npt.NDArray[Any], edit: str, strength: float = 1.0) -> UInt8Array: ...
    @overload
    def __call__(
        self, images: Image.Image | str | os.PathLike[str], edit: str, strength: float = 1.0
    ) -> Image.Image: ...
    @overload
    def __call__(self, images: list[Any] | tuple[Any, ...], edit: str, strength: float = 1.0) -> list[Any]: ...

    def __call__(self, images: Any, edit: str, strength: float = 1.0) -> Any:
        """Make `edit` in one picture or several, of any size.

        images: a path, a PIL image, a uint8 array (H, W, 3) or (N, H, W, 3), or a list of these.
        edit: one of the names in `edits`.
        strength: 0 gives back the input's own pixels, 1 the edit as trained; between and beyond both work.

        Returns the same kind at the same size, a PIL image for a path. Orientation tags are applied, alpha
        and colour profile kept, greyscale and palettes become RGB. The network sees the picture near its
        training size; only the *difference* that it makes is scaled up onto the original, which so keeps
        its detail. All pictures of a list are held in memory: hand over long lists piece by piece.

        Raises EditError for an unknown edit or a strength that is not finite, ImageError for a bad picture.
        """
        index = self._edit_index(edit)
        if not math.isfinite(strength):
            raise EditError(f"strength is {strength}: give a finite number, 0 for no edit and 1 for the full one")
        if isinstance(images, list | tuple):
            return self._translate([_open(image) for image in images], index, strength)
        if isinstance(images, np.ndarray) and images.ndim == 4:
            edited = self._translate([_open(image) for image in images], index, strength)
            return np.stack(edited) if edited else images.copy()
        return self._translate([_open(images)], index, strength)[0]

    def _edit_index(self, edit: str) -> int:
        names = list(self.edits)
        if edit in names:
            return names.index(edit)
        near = difflib.get_close_matches(edit, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise EditError(f"unknown edit {edit!r}: {hint}this model has {', '.join(map(repr, names))}")

    def _translate(self, pictures: Sequence[_Picture], edit: int, strength: float) -> list[Any]:
        """Batch the pictures that the network sees at the same size, and put each difference on its own."""
        edited = [picture.rgb.copy() for picture in pictures]
        by_size: dict[tuple[int, int], list[int]] = {}
        for i, picture in enumerate(pictures):
            if strength != 0:
                by_size.setdefault(self._network_size(*picture.rgb.shape[:2]), []).append(i)
        for (height, width), members in by_size.items():
            for start in range(0, len(members), MAX_BATCH):
                batch = members[start : start + MAX_BATCH]
                small = np.stack([_resize(pictures[i].rgb, height, width) for i in batch])
                for i, difference in zip(batch, self._difference(small, edit, strength), strict=True):
                    edited[i] = _add_difference(pictures[i].rgb, difference)
        return [picture.with_pixels(rgb) for picture, rgb in zip(pictures, edited, strict=True)]

    def _network_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of about the training images' area, aspect kept, in whole size multiples."""
        aspect = min(max(width / height, 1 / MAX_ASPECT), MAX_ASPECT)
        sides = (self._training_size / math.sqrt(aspect), self._training_size * math.sqrt(aspect))
        height, width = (self._size_multiple * max(1, round(side / self._size_multiple)) for side in sides)
        return height, width

    def _difference(self, images: UInt8Array, edit: int, strength: float) -> FloatArray:
        """uint8 (N, h, w, 3) -> what the edit adds, float32 (N, 3, h, w), 2.0 being black to white."""
        num_images = len(images)
        image = images.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1.0  # (N, 3, h, w) in [-1, 1]
        feeds = {
            "image": image,
            "edit": np.full(num_images, edit, np.int64),
            "strength": np.full(num_images, strength, np.float32),
        }
        translated: FloatArray = self._session.run(["translated"], feeds)[0]
        return translated - image


def _read_metadata(session: ort.InferenceSession, path: Path) -> dict[str, Any]:
    """The file's properties under our prefix, checked for what this module needs."""
    properties = session.get_modelmeta().custom_metadata_map
    ours = {key: value for key, value in properties.items() if key.startswith(METADATA_PREFIX)}
    if not ours:
        raise ModelFileError(
            f"{path} is an ONNX model, but not one of this project: it has no `{METADATA_PREFIX}*` metadata"
        )
    try:
        metadata = {key.removeprefix(METADATA_PREFIX): json.loads(value) for key, value in ours.items()}
    except json.JSONDecodeError as error:
        raise ModelFileError(f"{path} has broken metadata ({error}): export it again") from error
    missing = [key for key in ("schema_version", "edits", "training_size", "size_multiple") if key not in metadata]
    if missing:
        raise ModelFileError(f"{path} has incomplete metadata (no {', '.join(missing)}): export it again")
    if metadata["schema_version"] != SCHEMA_VERSION:
        raise ModelFileError(
            f"{path} has schema version {metadata['schema_version']} and this runtime reads {SCHEMA_VERSION}: "
            "update the program that reads it, or export the model again"
        )
    return metadata


def _open(source: Any) -> _Picture:
    """Any accepted picture -> upright 8-bit RGB, and alpha and colour profile aside."""
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or source.size == 0:
            raise ImageError(
                f"an array of shape {source.shape} and type {source.dtype} is no picture: "
                "give uint8 values of shape (H, W, 3) or (N, H, W, 3), and open other kinds with Pillow"
            )
        return _Picture(source, alpha=None, icc_profile=None, as_array=True)
    if not isinstance(source, Image.Image | str | os.PathLike):
        raise ImageError(f"{type(source).__name__} is no picture: give a path, a PIL image or a uint8 array")
    name = "the picture" if isinstance(source, Image.Image) else str(source)
    try:
        if isinstance(source, Image.Image):
            return _from_pil(source, name)
        with Image.open(source) as image:
            return _from_pil(image, name)
    except FileNotFoundError as error:
        raise ImageError(f"no picture at {name}: check the path") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow's readers raise
        raise ImageError(f"{name} cannot be read as a picture: {error}") from error


def _from_pil(image: Image.Image, name: str) -> _Picture:
    """A PIL image of any mode -> _Picture; its orientation tag is applied, so that up is up."""
    if 0 in image.size or image.mode in ("I", "F"):
        raise ImageError(f"{name} has mode {image.mode} and size {image.size}: convert it to an 8-bit picture first")
    icc_profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA") else None  # else of other inks
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow would clip 16 bits at 255
        image = Image.fromarray(np.rint(np.asarray(image) / 257.0).astype(np.uint8))
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    rgb = np.asarray(image.convert("RGBA").convert("RGB") if alpha else image.convert("RGB"))  # (H, W, 3)
    return _Picture(rgb, alpha, icc_profile, as_array=False)


def _resize(rgb: UInt8Array, height: int, width: int) -> UInt8Array:
    """uint8 (H, W, 3) -> uint8 (height, width, 3), antialiased; the same pixels where the size fits."""
    if rgb.shape[:2] == (height, width):
        return rgb
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.LANCZOS))


def _add_difference(rgb: UInt8Array, difference: FloatArray) -> UInt8Array:
    """The picture (H, W, 3) plus the difference (3, h, w), scaled up to the picture's size."""
    height, width = rgb.shape[:2]
    edited = np.empty_like(rgb)
    for channel in range(3):  # one at a time: three float planes of a large photograph are 300 MB
        plane = difference[channel]
        if plane.shape != (height, width):
            plane = np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC))
        edited[..., channel] = np.clip(np.rint(rgb[..., channel] + plane * 127.5), 0, 255).astype(np.uint8)
    return edited
