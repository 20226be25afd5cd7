"""Edit an image with a TorchScript file, with torch and nothing else.

    python python_torchscript.py model.torchscript room.ppm red-leather edited.ppm [strength]

Images here are binary PPM (`magick room.jpg room.ppm`): use your own program's reader and writer instead. The
network sees the image near the size that it was trained on, in multiples of `size_multiple`. The change that it makes
is scaled up and added to the image, which so keeps its size and detail.

Loading a TorchScript file can execute code: use only files from people you trust.
"""

import json
import re
import sys
from pathlib import Path

import torch
from torch.nn.functional import interpolate


def main(model: str, source: str, edit: str, target: str, strength: str = "1") -> None:
    """Translate the image `source` by one edit, and write `target`."""
    extra = {"distillery.json": ""}
    network = torch.jit.load(model, _extra_files=extra)
    metadata = json.loads(extra["distillery.json"])
    edits, size, multiple = (metadata[key] for key in ("edits", "training_size", "size_multiple"))
    if edit not in edits:
        sys.exit(f"unknown edit {edit}: this model has {', '.join(edits)}")

    content = Path(source).read_bytes()
    head = re.match(rb"P6\s+(\d+)\s+(\d+)\s+255\s", content)
    if not head:
        sys.exit(f"{source} is not a binary PPM of 8 bits")
    width, height = int(head[1]), int(head[2])
    pixels = torch.frombuffer(bytearray(content[head.end() :]), dtype=torch.uint8)[: 3 * width * height]
    photo = pixels.reshape(1, height, width, 3).permute(0, 3, 1, 2) / 127.5 - 1  # (1, 3, H, W) in [-1, 1]

    aspect = min(max(width / height, 1 / 4), 4)
    shape = [max(1, round(size * side / multiple)) * multiple for side in (aspect**-0.5, aspect**0.5)]
    image = interpolate(photo, shape, mode="bicubic", antialias=True).clamp(-1, 1)  # (1, 3, h, w)

    with torch.no_grad():
        translated = network(image, torch.tensor([list(edits).index(edit)]), torch.tensor([float(strength)]))
    change = interpolate(translated - image, (height, width), mode="bicubic", antialias=True)  # (1, 3, H, W)
    edited = ((photo + change + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)  # (1, H, W, 3)
    Path(target).write_bytes(b"P6 %d %d 255\n" % (width, height) + bytes(edited.flatten().tolist()))


if __name__ == "__main__":
    if len(sys.argv) not in (5, 6):
        sys.exit(__doc__)
    main(*sys.argv[1:])
