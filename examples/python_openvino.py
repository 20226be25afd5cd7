"""Edit an image with a model file by OpenVINO, for Intel's CPUs, GPUs and NPUs.

    pip install --no-deps openvino && pip install numpy Pillow
    python python_openvino.py model.onnx room.jpg red-leather edited.png [strength] [device]

OpenVINO reads the ONNX file itself, metadata included. `--no-deps` leaves out its telemetry, which calls home as soon
as it is imported; this program blocks it, too. On CPUs with bfloat16 OpenVINO rounds to it by itself, in 0.6 of the
time and up to 7 levels of 255 away. Here it is told to compute in float32.
"""

import json
import sys

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # only some of Pillow's: others start programs


def main(model: str, source: str, edit: str, target: str, strength: str = "1", device: str = "CPU") -> None:
    """Translate the image `source` by one edit, and write `target`."""
    sys.modules["openvino_telemetry"] = None  # before the import, or OpenVINO calls home
    import openvino

    core = openvino.Core()
    network = core.read_model(model)
    edits, size, multiple = (
        json.loads(network.get_rt_info(["framework", f"distillery.{key}"]).value)
        for key in ("edits", "training_size", "size_multiple")
    )
    if edit not in edits:
        sys.exit(f"unknown edit {edit}: this model has {', '.join(edits)}")
    compiled = core.compile_model(network, device, {"INFERENCE_PRECISION_HINT": "f32"})

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
    translated = compiled(feeds)["translated"]

    change = (translated - image)[0] * 127.5  # (3, h, w), in steps of 0 to 255
    planes = [Image.fromarray(plane).resize(photo.size, Image.Resampling.BICUBIC) for plane in change]
    edited = np.asarray(photo) + np.dstack([np.asarray(plane) for plane in planes])  # (H, W, 3)
    Image.fromarray(np.rint(edited).clip(0, 255).astype(np.uint8)).save(target)


if __name__ == "__main__":
    if len(sys.argv) not in (5, 6, 7):
        sys.exit(__doc__)
    main(*sys.argv[1:])
