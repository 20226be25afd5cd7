"""Draws the scenes that the miniature is trained on, with their captions."""

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from synth.files import write_text
from synth.miniature import models
from synth.world.captions import captions
from synth.world.scenes import render, sample_scene

CAPTIONS_PER_SCENE = 4


def draw(out: Path, num_scenes: int) -> None:
    """Write `images.npy`, uint8 (N, 128, 128, 3), and `captions.json`: scenes 0 to N - 1 of the train split."""
    if (out / "captions.json").exists():  # it is written last
        return
    out.mkdir(parents=True, exist_ok=True)
    images = np.lib.format.open_memmap(out / "images.npy", "w+", np.uint8, (num_scenes, models.SIZE, models.SIZE, 3))
    texts: list[list[str]] = []
    # Every scene follows from its index, so the spans may be drawn in any process.
    with ProcessPoolExecutor() as pool:
        spans = [(start, min(start + 500, num_scenes)) for start in range(0, num_scenes, 500)]
        for (start, stop), (drawn, texts_of_span) in zip(spans, pool.map(_draw_span, spans), strict=True):
            images[start:stop] = drawn
            texts.extend(texts_of_span)
    images.flush()
    write_text(out / "captions.json", json.dumps(texts))
    print(f"drew {num_scenes} scenes")


def _draw_span(span: tuple[int, int]) -> tuple[NDArray[np.uint8], list[list[str]]]:
    scenes = [sample_scene("train", index) for index in range(*span)]
    images = np.stack([render(scene, models.SIZE).image for scene in scenes])
    return images, [captions(scene, CAPTIONS_PER_SCENE) for scene in scenes]
