"""Run a model file: images in, edited images out, with numpy, Pillow and onnxruntime alone.

    translator = Translator.load("model.onnx")  # or hf://owner/name
    translator("room.jpg", "red leather").save("room-red.png")

Copy this file, `synth/images/reader.py` and `synth/images/enlargement.py` side by side into a program of your own:
they need nothing else of the project. With models of strangers, use onnxruntime 1.31 or newer, which refuses files
that point at data outside their folder.

    TranslatorError          bad input; its message is one line that says what was wrong and what to do
    ├── ModelFileError       a model file that is missing, broken, foreign or cannot be fetched
    ├── ProviderError        an execution provider that ONNX Runtime does not have here
    ├── ImageError           an image that cannot be read or has the wrong shape or type
    └── EditError            an edit that the model does not know, or a strength out of range
"""

import difflib
import io
import json
import math
import os
import re
import threading
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from functools import cache
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

# ONNX Runtime sends usage events to its makers unless this is set before it is imported; "0" lets it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions

try:
    from synth.images import reader
except ModuleNotFoundError:  # copied out of the project
    import reader  # type: ignore[import-not-found, no-redef]

SCHEMA_VERSION = 1
"""Version of the metadata and of the graph's inputs and output that this file reads and `export` writes."""
METADATA_PREFIX = "distillery."
"""Each property of the ONNX file under this prefix is one JSON value, e.g. `distillery.edits`."""

PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
"""Where a model can run, best first: our short names, and ONNX Runtime's."""

MISSING = (
    'model files need ONNX Runtime, which is not installed: pip install "dds-distillery[cpu]" (the package '
    'onnxruntime), or "dds-distillery[gpu]" (onnxruntime-gpu) on a machine with CUDA'
)
_NEED_CUDA = (PROVIDERS["cuda"], "TensorrtExecutionProvider")

MAX_STRENGTH = 10.0  # an edit ten times over is noise already, and far beyond it the network's numbers overflow
CUDA_OPTIONS = {
    "cudnn_conv_algo_search": "HEURISTIC",  # by default each new image size costs a search through all algorithms
    "arena_extend_strategy": "kSameAsRequested",  # by default memory is taken in powers of two
}
"""What sessions on CUDA are made with."""

MAX_BATCH = 8  # images in one pass of the network: bounds memory whatever the length of a list
MAX_BATCH_PIXELS = MAX_BATCH * 512**2  # of these images together, as the network sees them; one alone may be larger
MAX_ASPECT = 4.0  # longer images are squeezed to this for the network alone; their own size returns

# Bounds of what a model file may say about itself: a file from somebody else can say anything.
MAX_SIZE = 8192
MAX_EDITS = 1000
MAX_NAME_CHARS = 200
MAX_PROMPT_CHARS = 10_000
MAX_PROPERTIES = 100
MAX_PROPERTY_CHARS = 2**20
MAX_DEPTH = 32

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]


class TranslatorError(ValueError):
    """Root of this module's errors; the message is one line that says what was wrong and what to do."""


class ModelFileError(TranslatorError):
    """The model file is missing, broken, was not made by this project, or cannot be fetched."""


class ProviderError(TranslatorError):
    """ONNX Runtime has no such execution provider on this machine."""


class ImageError(TranslatorError):
    """An image cannot be read or has the wrong shape or type."""


class EditError(TranslatorError):
    """The model does not know this edit, or the strength is not a number between -10 and 10."""


class Translator:
    """A distilled network that makes its edits in one pass. Safe to share between threads."""

    metadata: dict[str, Any]
    """All that the file says about itself: teacher, licence, metrics, what it was validated on."""
    edits: dict[str, str]
    """Names of the edits, each with its target prompt."""

    providers: list[str]
    """ONNX Runtime's names of what the network runs on, the one that does most of the work first."""
    file: Path | None = None
    """Where the model lies, if it was loaded from a file."""

    def __init__(self, session: "InferenceSession", metadata: dict[str, Any]):
        self._session = session
        self.metadata = metadata
        self.edits = metadata["edits"]
        self.providers = session.get_providers()
        self._training_size = int(metadata["training_size"])
        self._size_multiple = int(metadata["size_multiple"])
        # ONNX Runtime allows runs side by side on one session, except with DirectML.
        self._one_at_a_time = threading.Lock() if PROVIDERS["directml"] in self.providers else None

    @classmethod
    def load(cls, path: str | os.PathLike[str], providers: Sequence[str] | None = None, num_threads: int = 0) -> Self:
        """Open a model file.

        Args:
            path: a file, or hf://owner/name[@revision][/file.onnx] on the Hugging Face Hub (needs `huggingface_hub`,
                which caches it; default file: model.onnx).
            providers: what to run on, best first, by the names in `PROVIDERS` or by ONNX Runtime's own (default: the
                best that ONNX Runtime has here: CUDA, CoreML, DirectML, else the CPU).
            num_threads: CPU threads for one run; 0 leaves it to ONNX Runtime, which takes one a core.

        Raises:
            ModelFileError: for a file that is missing, not ONNX, not of this project, of a newer schema, or cannot be
                fetched.
            ProviderError: if a provider that was asked for is not available.
        """
        location = str(path)
        file = _fetch(location) if location.startswith("hf://") else Path(path)
        if not file.is_file():
            raise ModelFileError(f"no model file at {file}: check the path, or make one with `distillery export`")
        session = _open_session(file, _choose_providers(providers), num_threads, optional=providers is None)
        translator = cls(session, _read_metadata(session, file))
        translator.file = file
        return translator

    @overload
    def __call__(self, images: npt.NDArray[Any], edit: str, strength: float = 1.0) -> UInt8Array: ...
    @overload
    def __call__(self, images: reader.SourceImage, edit: str, strength: float = 1.0) -> reader.SourceImage: ...
    @overload
    def __call__(
        self, images: Image.Image | str | os.PathLike[str], edit: str, strength: float = 1.0
    ) -> Image.Image: ...
    @overload
    def __call__(self, images: list[Any] | tuple[Any, ...], edit: str, strength: float = 1.0) -> list[Any]: ...

    def __call__(self, images: Any, edit: str, strength: float = 1.0) -> Any:
        """Make an edit in one image or several, of any size.

        The network sees an image near its training size. Only the *difference* that it makes is scaled up onto the
        original, which keeps its detail, and along whose edges it ends.

        Args:
            images: a path, a PIL image, what `reader.read_image` returns, a uint8 array (H, W, 3) or (N, H, W, 3),
                or a list of these. A list is held in memory: pass a long one piece by piece.
            edit: one of the names in `edits`.
            strength: from -10 to 10; 0 returns the input's own pixels, 1 is the edit as trained.

        Returns:
            The same kind at the same size; for a path, a PIL image. Its orientation is applied, alpha and RGB
            profile are kept, and `info` has its EXIF, XMP and DPI; all else becomes RGB (see `reader.py`).

        Raises:
            EditError: for an unknown edit or a strength out of range.
            ImageError: for an image that cannot be read.
        """
        index = self._edit_index(edit)
        _check_strength(strength)
        if isinstance(images, list | tuple):
            return self._translate(images, index, strength)
        if isinstance(images, np.ndarray) and images.ndim == 4:
            edited = self._translate(list(images), index, strength)
            return np.stack(edited) if edited else images.copy()
        return self._translate([images], index, strength)[0]

    def _edit_index(self, edit: str) -> int:
        names = list(self.edits)
        if not isinstance(edit, str):
            raise EditError(f"an edit is a name, not {type(edit).__name__}: this model has {_quoted(names)}")
        if edit in names:
            return names.index(edit)
        composed = [unicodedata.normalize("NFC", name) for name in names]  # terminals may send letters in pieces
        if unicodedata.normalize("NFC", edit) in composed:
            return composed.index(unicodedata.normalize("NFC", edit))
        edit = edit if len(edit) <= 80 else f"{edit[:80]}..."
        near = difflib.get_close_matches(edit, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise EditError(f"unknown edit {edit!r}: {hint}this model has {_quoted(names)}")

    def _translate(self, images: Sequence[Any], edit: int, strength: float) -> list[Any]:
        """Batch the images that the network sees at the same size, and put each difference on its own."""
        edited = [_open(image) for image in images]
        by_size: dict[tuple[int, int], list[int]] = {}
        for i, image in enumerate(edited):
            if strength != 0:
                by_size.setdefault(self._network_size(*image.pixels.shape[:2]), []).append(i)
        for (height, width), members in by_size.items():
            at_once = max_batch(height, width)
            for start in range(0, len(members), at_once):
                batch = members[start : start + at_once]
                small = np.stack([edited[i].reduced(height, width) for i in batch])
                edits, strengths = np.full(len(batch), edit, np.int64), np.full(len(batch), strength, np.float32)
                differences = self._difference(small, edits, strengths)
                for i, reduced, difference in zip(batch, small, differences, strict=True):
                    if not np.isfinite(difference).all():
                        raise EditError(f"the network's numbers overflow at strength {strength}: try a smaller one")
                    edited[i] = edited[i].with_change(difference, reduced)
        return [_as_given(image, given) for image, given in zip(edited, images, strict=True)]

    def _network_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of about the training images' area, aspect kept, in whole size multiples."""
        aspect = min(max(width / height, 1 / MAX_ASPECT), MAX_ASPECT)
        sides = (self._training_size / math.sqrt(aspect), self._training_size * math.sqrt(aspect))
        height, width = (self._size_multiple * max(1, round(side / self._size_multiple)) for side in sides)
        return height, width

    def _difference(self, images: UInt8Array, edits: npt.NDArray[np.int64], strengths: FloatArray) -> FloatArray:
        """What the network adds to each image; the one place where it runs.

        Args:
            images: uint8 (N, h, w, 3), h and w whole size multiples.
            edits: int64 (N,), numbers of edits.
            strengths: float32 (N,).

        Returns:
            float32 (N, 3, h, w); 2.0 is the way from black to white.
        """
        image = images.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1.0  # (N, 3, h, w) in [-1, 1]
        feeds = {"image": image, "edit": edits, "strength": strengths}
        try:
            with self._one_at_a_time or nullcontext():
                translated: FloatArray = self._session.run(["translated"], feeds)[0]
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise ModelFileError(
                f"the model's graph refuses edit number {', '.join(map(str, sorted(set(edits.tolist()))))} at "
                f"{image.shape[3]}x{image.shape[2]} ({_first_line(error)[:300]}): its metadata and its graph "
                "disagree, or memory is short; export it again"
            ) from error
        if translated.shape != image.shape or translated.dtype != np.float32:
            raise ModelFileError(
                f"the model's graph gives {translated.dtype} {translated.shape} for an image of {image.shape}: "
                "export it again"
            )
        return translated - image


def max_batch(height: int, width: int) -> int:
    """How many images of a size go through the network at once."""
    return max(1, min(MAX_BATCH, MAX_BATCH_PIXELS // (height * width)))


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def _check_strength(strength: float) -> None:
    number = isinstance(strength, Real) and not isinstance(strength, bool)
    if not number or not abs(strength) <= MAX_STRENGTH:  # so written, a NaN fails too
        raise EditError(
            f"strength is {strength!r}: give a number from {-MAX_STRENGTH:g} to {MAX_STRENGTH:g}, "
            "0 for no edit and 1 for the full one"
        )


def _fetch(location: str) -> Path:
    """hf://owner/name[@revision][/file.onnx] -> the file in the Hub's cache, its external weights beside it."""
    parts = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.+))?", location)
    if parts is None:
        raise ModelFileError(
            f"{location} is not an address on the Hub: write hf://owner/name or hf://owner/name/file.onnx"
        )
    repository, revision, name = parts[1], parts[2], parts[3] or "model.onnx"
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ModelFileError(
            f"{location} needs huggingface_hub: pip install huggingface_hub, or download the file and give its path"
        ) from error
    try:  # by patterns, because only the Hub knows whether there are external weights
        folder = snapshot_download(repository, revision=revision, allow_patterns=[name, f"{name}.data"])
    except Exception as error:  # HTTP, network, cache and validation errors share no base class
        raise ModelFileError(
            f"{location} cannot be fetched: {_first_line(error)}; check the name and the network, "
            "and for a gated or private model log in with `hf auth login`"
        ) from error
    file = Path(folder) / name
    if not file.is_file():
        raise ModelFileError(f"{repository} has no file {name}: name one, as in hf://{repository}/file.onnx")
    return file


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _choose_providers(wanted: Sequence[str] | None) -> list[str]:
    """ONNX Runtime's names of the providers to use; ProviderError where a wanted one is not there."""
    available = onnx_runtime().get_available_providers()
    if wanted is None:
        return best_providers()
    chosen = [PROVIDERS.get(name.lower(), name) for name in ([wanted] if isinstance(wanted, str) else wanted)]
    absent = [name for name in chosen if name not in available]
    if absent or not chosen:
        raise ProviderError(
            f"onnxruntime has no {', '.join(absent) or 'provider without a name'} here, only {', '.join(available)}: "
            "in place of onnxruntime install onnxruntime-gpu for CUDA, onnxruntime-directml for DirectML"
        )
    return chosen


def onnx_runtime() -> Any:
    """The package, imported where it is needed: all else works without it.

    Raises ProviderError where it is not installed.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise ProviderError(MISSING) from None
    return onnxruntime


def best_providers() -> list[str]:
    """ONNX Runtime's names of what it has here, the best first."""
    available = onnx_runtime().get_available_providers()
    return [provider for provider in PROVIDERS.values() if provider in available]


def new_session(
    file: str, options: "SessionOptions", providers: Sequence[str], cuda_options: Mapping[str, str] | None = None
) -> "InferenceSession":
    """Open a session; on CUDA with the options that suit a network of convolutions, and `cuda_options`.

    Raises what ONNX Runtime raises: its exceptions share no base class of their own.
    """
    if any(name in _NEED_CUDA for name in providers):
        _preload_cuda()
    cuda = {**CUDA_OPTIONS, **(cuda_options or {})}
    each_options = [cuda if name == PROVIDERS["cuda"] else {} for name in providers]
    return onnx_runtime().InferenceSession(
        file, options, providers=list(providers), provider_options=each_options, enable_fallback=False
    )


@cache
def _preload_cuda() -> None:
    """Load CUDA's and cuDNN's libraries from the packages that PyTorch brings, where they are not on the system."""
    preload = getattr(onnx_runtime(), "preload_dlls", None)  # from 1.21 on
    if preload is not None:
        # What it does not find it prints; if it is missed, the session's own error says so.
        with redirect_stdout(io.StringIO()):
            preload()


def _open_session(file: Path, providers: list[str], num_threads: int, optional: bool) -> "InferenceSession":
    """A session on the first of `providers` that works; all but the CPU may fail where they are `optional`."""
    options = onnx_runtime().SessionOptions()
    options.log_severity_level = 4  # its errors come as exceptions, its warnings are about its own graph
    options.intra_op_num_threads = num_threads
    options.enable_mem_pattern = PROVIDERS["directml"] not in providers  # DirectML cannot have it
    try:
        session = new_session(str(file), options, providers)
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        if optional and providers != [PROVIDERS["cpu"]]:
            return _open_session(file, [PROVIDERS["cpu"]], num_threads, optional)
        raise ModelFileError(
            f"{file} is not an ONNX model that onnxruntime can load: {_first_line(error)}"
        ) from error
    if not optional and session.get_providers()[0] != providers[0]:  # left out without a word: no driver, no device
        raise ProviderError(f"{providers[0]} does not start on this machine: check its driver, or run on another")
    return session


def _read_metadata(session: "InferenceSession", path: Path) -> dict[str, Any]:
    """The file's properties under our prefix, checked for what this module needs."""
    properties = session.get_modelmeta().custom_metadata_map
    ours = {key: value for key, value in properties.items() if key.startswith(METADATA_PREFIX)}
    if not ours:
        raise ModelFileError(
            f"{path} is an ONNX model, but not one of this project: it has no `{METADATA_PREFIX}*` metadata"
        )
    metadata = check_metadata({key.removeprefix(METADATA_PREFIX): value for key, value in ours.items()}, path)
    inputs, outputs = ({port.name for port in ports} for ports in (session.get_inputs(), session.get_outputs()))
    if inputs != {"image", "edit", "strength"} or "translated" not in outputs:
        raise ModelFileError(
            f"{path} does not take image, edit and strength or gives no `translated`: export it again"
        )
    return metadata


def check_metadata(properties: Mapping[str, str], path: Path) -> dict[str, Any]:
    """What a model file says about itself, each property one JSON value, within bounds.

    Raises ModelFileError for broken JSON, and for what is missing, of the wrong type, or beyond the bounds.
    """
    if len(properties) > MAX_PROPERTIES or any(len(value) > MAX_PROPERTY_CHARS for value in properties.values()):
        raise ModelFileError(
            f"{path} has more metadata than {MAX_PROPERTIES} properties of {MAX_PROPERTY_CHARS} letters: "
            "export it again"
        )
    try:
        metadata = {key: json.loads(value, parse_constant=_refuse_constant) for key, value in properties.items()}
    except (ValueError, RecursionError) as error:  # ValueError: also integers of thousands of digits
        raise ModelFileError(f"{path} has broken metadata ({_first_line(error)[:200]}): export it again") from error
    missing = [key for key in ("schema_version", "edits", "training_size", "size_multiple") if key not in metadata]
    if missing:
        raise ModelFileError(f"{path} has incomplete metadata (no {', '.join(missing)}): export it again")
    version = metadata["schema_version"]
    if type(version) is not int or version != SCHEMA_VERSION:
        raise ModelFileError(
            f"{path} has schema version {json.dumps(version)[:20]} and this runtime reads {SCHEMA_VERSION}: "
            "update the program that reads it, or export the model again"
        )
    problem = _problem(metadata)
    if problem:
        raise ModelFileError(f"{path} has broken metadata ({problem}): export it again")
    return metadata


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _problem(metadata: dict[str, Any]) -> str | None:
    """What makes no sense in the metadata, if anything."""
    if _is_deeper(metadata, MAX_DEPTH):
        return f"it is nested more than {MAX_DEPTH} deep"
    for key in ("training_size", "size_multiple"):
        size = metadata[key]
        if type(size) is not int or not 1 <= size <= MAX_SIZE:  # True is an int, and no size
            return f"{key} is not a whole number from 1 to {MAX_SIZE}"
    edits = metadata["edits"]
    if not isinstance(edits, dict) or not 1 <= len(edits) <= MAX_EDITS:
        return f"edits are no table of 1 to {MAX_EDITS} names"
    for name, prompt in edits.items():
        if not 1 <= len(name) <= MAX_NAME_CHARS:
            return f"an edit's name is empty or longer than {MAX_NAME_CHARS} letters"
        if not isinstance(prompt, str) or len(prompt) > MAX_PROMPT_CHARS:
            return f"the prompt of {name!r} is no text of at most {MAX_PROMPT_CHARS} letters"
    if not isinstance(metadata.get("name", ""), str) or len(metadata.get("name", "")) > MAX_NAME_CHARS:
        return f"name is no text of at most {MAX_NAME_CHARS} letters"
    return None


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether a JSON value is nested more than `depth` levels; without recursion, which it is meant to prevent."""
    level = [value]
    for _ in range(depth + 1):
        below = (list(item.values()) if isinstance(item, dict) else item for item in level)
        level = [item for items in below for item in items if isinstance(item, dict | list)]
    return bool(level)


def _open(source: Any) -> reader.SourceImage:
    """Any accepted image, read."""
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or source.size == 0:
            raise ImageError(
                f"an array of shape {source.shape} and type {source.dtype} is not an image: "
                "give uint8 values of shape (H, W, 3) or (N, H, W, 3), and open other kinds with Pillow"
            )
        return reader.SourceImage(source)
    if not isinstance(source, reader.SourceImage | Image.Image | str | os.PathLike):
        raise ImageError(f"{type(source).__name__} is not an image: give a path, a PIL image or a uint8 array")
    try:
        return reader.read_image(source)
    except reader.ImageError as error:
        raise ImageError(str(error)) from error


def _as_given(image: reader.SourceImage, given: Any) -> Any:
    """The edited image as the kind of thing that came in; what came in is never handed out again."""
    if isinstance(given, reader.SourceImage):
        return image
    if isinstance(given, np.ndarray):
        return image.pixels.copy() if image.pixels is given else image.pixels
    return image.to_pil()
