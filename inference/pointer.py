"""The pointer that a finished run moves, `NAME.latest.json`: whoever reads it has the latest good model of a recipe.

`flows.run.promotion` writes it. Of its content this module needs one entry, {"model": "RUN/model.onnx"}, relative to
the pointer.
"""

import json
import re
from pathlib import Path

from inference.runtime import ModelFileError

SUFFIX = ".latest.json"
MODEL = re.compile(r"(?!\.)[^/\\\x00-\x1f]{1,255}/model\.onnx")
"""What a pointer may name: a model file in a folder beside it, and nothing further away."""
_MAX_BYTES = 2**24


def is_pointer(location: str) -> bool:
    """Return whether a location is a pointer, and not a model file."""
    return location.endswith(SUFFIX)


def model_of(pointer: Path) -> Path:
    """The model file that a pointer names now.

    Raises:
        ModelFileError: if there is no pointer, it is damaged, it leads out of its folder, or its model is not here
            because another machine made it.
    """
    try:
        with pointer.open("rb") as file:
            content = file.read(_MAX_BYTES)
    except OSError as error:
        raise ModelFileError(f"{pointer} cannot be read: {error.strerror or error}") from None
    try:
        model = json.loads(content)["model"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ModelFileError(f"{pointer} names no model: delete it, and the next run writes a new one") from None
    if not isinstance(model, str) or not MODEL.fullmatch(model):
        raise ModelFileError(f"{pointer} names {str(model)[:200]!r}, which is not RUN/model.onnx beside it")
    if not (pointer.parent / model).exists():
        run = model.partition("/")[0]
        raise ModelFileError(
            f"{pointer} names {model}, which is not on this machine: copy the folder {run} to {pointer.parent}, from "
            "the machine that made it or from its operations.remote_dir; if that is set, the command that made it, "
            f"`distillery run ... --out {pointer.parent / run}`, downloads it"
        )
    return pointer.parent / model


def resolved(location: str) -> str:
    """The location of a model: itself, or the file that it points to.

    Raises:
        ModelFileError: for a URL that nothing here downloads, and as `model_of`.
    """
    if "://" in location and (is_pointer(location) or not location.startswith("hf://")):
        from synth.urls import redact  # for this line alone: a server imports no more of synth than it needs

        brought = "the pointer and the folder that it names, side by side" if is_pointer(location) else "the file"
        raise ModelFileError(
            f"{redact(location)} is not on this machine, and only hf://owner/name is downloaded: copy {brought}, and "
            "give the path here"
        )
    return str(model_of(Path(location))) if is_pointer(location) else location
