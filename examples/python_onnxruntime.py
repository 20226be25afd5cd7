"""Edit an image with a model file, with numpy, Pillow, onnxruntime and nothing else.

    python python_onnxruntime.py model.onnx room.jpg red-leather edited.png [strength]

The network sees the image near the size that it was trained on, in multiples of `size_multiple`. The change that it
makes is scaled up and added to the image, which so keeps its size and detail.
"""

import json
import os
import sys

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import, or ONNX Runtime calls home

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # only some of Pillow's: others start programs


def main(model: str, source: str, edit: str, target: str, strength: str = "1") -> None:
    """Translate the image `source` by one edit, and write `target`."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    properties = session.get_modelmeta().custom_metadata_map
    edits, size, multiple = (
        json.loads(properties[f"distillery.{key}"]) for key in ("edits", "training_size", "size_multiple")
    )
    # A file from somebody else can claim anything about itself.
    if not all(type(value) is int and 1 <= value <= 8192 for value in (size, multiple)) or not isinstance(
        edits, dict
    ):
        sys.exit(f"{model} has broken metadata: export it again")
    if edit not in edits:
        sys.exit(f"unknown edit {edit}: this model has {', '.join(edits)}")

    photo = ImageOps.exif_transpose(Image.open(source, formats=FORMATS)).convert("RGB")
    aspect = min(max(photo.width / photo.height, 1 / 4), 4)
    width, height = (max(1, round(size * side / multiple)) * multiple for side in (aspect**0.5, aspect**-0.5))
    small = np.asarray(photo.resize((width, height), Image.Resampling.LANCZOS), np.float32)  # (h, w, 3) of 0 to 255
    image = small.transpose(2, 0, 1)[None] / 127.5 - 1  # (1, 3, h, w) in [-1, 1]

    feeds = {
        "image": image,
        "edit": np.array([list(edits).index(edit)], np.int64),
        "strength": np.array([float(strength)], np.float32),
    }
    (translated,) = session.run(["translated"], feeds)

    change = (translated - image)[0] * 127.5  # (3, h, w), in steps of 0 to 255
    planes = [Image.fromarray(plane).resize(photo.size, Image.Resampling.BICUBIC) for plane in change]
    edited = np.asarray(photo) + np.dstack([np.asarray(plane) for plane in planes])  # (H, W, 3)
    Image.fromarray(np.rint(edited).clip(0, 255).astype(np.uint8)).save(target)


if __name__ == "__main__":
    if len(sys.argv) not in (5, 6):
        sys.exit(__doc__)
    main(*sys.argv[1:])
