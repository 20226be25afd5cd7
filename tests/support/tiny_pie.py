"""PIE-Bench in small: its very format, a few flat images."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LEFT_HALF = [number for row in range(512) for number in (512 * row, 256)]
"""The mask of the left half, as pairs of a start and a length."""
ENTRIES: Mapping[str, Mapping[str, Any]] = {
    "000000000000": {"image_path": "0_random_140/000000000000.png", "editing_type_id": "0"},
    "611000000000": {
        "image_path": "6_change_attribute_color_40/1_artificial/1_animal/611000000000.png",
        "original_prompt": "a [blue] sofa in a room",
        "editing_prompt": "a [red leather] sofa in a room",
        "editing_type_id": "6",
    },
    "612000000000": {
        "image_path": "6_change_attribute_color_40/2_natural/612000000000.png",
        "editing_prompt": "a [blue fabric] sofa in a room",
        "editing_type_id": "6",
    },
}


def write_pie_bench(folder: Path, changes: Mapping[str, Mapping[str, Any]] | None = None) -> Path:
    """Write ENTRIES, changed as said, each with an image in a grey of its own."""
    entries = {}
    for place, (key, given) in enumerate(ENTRIES.items()):
        entry = {
            "original_prompt": "a sofa in a room",
            "editing_prompt": "a [purple] sofa in a room",
            "editing_instruction": "",
            "blended_word": "",
            "mask": LEFT_HALF,
            **given,
        }
        path = folder / "annotation_images" / entry["image_path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((512, 512, 3), 100 + place, np.uint8)).save(path)
        entries[key] = entry | dict((changes or {}).get(key, {}))
    (folder / "mapping_file.json").write_text(json.dumps(entries))
    return folder
