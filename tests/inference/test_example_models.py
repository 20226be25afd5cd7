"""The pixel networks that lie in the repository: a newcomer's first edit, before any training."""

from pathlib import Path

import numpy as np
import pytest

from distill.evaluation.counterfactuals import choose_scenes
from flows.config.loading import load_recipe
from inference.runtime import Translator
from synth.world.readers import FactorReader
from synth.world.scenes import render

FOLDER = Path(__file__).parents[2] / "examples" / "models"
NAMES = ("sofas", "flowers", "characters", "weather")
NUM_SCENES = 6  # of each edit; enough to tell a network that edits from one that does not


@pytest.fixture(scope="module")
def reader() -> FactorReader:
    return FactorReader.load()


def test_each_has_its_card() -> None:
    assert {path.stem for path in FOLDER.glob("*.onnx")} == set(NAMES)
    for name in NAMES:
        model = FOLDER / f"{name}.onnx"
        metadata, card = Translator.load(model).metadata, (FOLDER / f"{name}.md").read_text()
        assert model.stat().st_size <= 1.5 * 2**20
        assert metadata["precision"] == "float16" and metadata["teacher"] == "miniature"
        assert list(metadata["edits"]) == list(load_recipe(name).edits)
        assert all(f"`{edit}`" in card for edit in metadata["edits"])
        assert metadata["licence"] in card and "drawn" in card


@pytest.mark.parametrize("name", NAMES)
def test_it_makes_the_edits_of_its_recipe(name: str, reader: FactorReader) -> None:
    recipe = load_recipe(name)
    translator = Translator.load(FOLDER / f"{name}.onnx", num_threads=1)
    scenes = choose_scenes(recipe.edits, NUM_SCENES, "development", recipe.evaluation.given)
    images = [render(scene).image for scene in scenes]
    right, to_truth, untouched = [], [], []
    for edit, factors in recipe.edits.items():
        edited = translator(images, edit)
        truths = [render(scene.replace(**factors)).image for scene in scenes]
        read = reader.read(np.stack(edited))
        right += [
            all(read[factor][place] == value for factor, value in factors.items()) for place in range(NUM_SCENES)
        ]
        to_truth += [np.square(np.subtract(a, b, dtype=float)).mean() for a, b in zip(edited, truths, strict=True)]
        untouched += [np.square(np.subtract(a, b, dtype=float)).mean() for a, b in zip(images, truths, strict=True)]
    assert np.mean(right) > 0.8
    assert np.mean(to_truth) < 0.5 * np.mean(untouched), "twice as near as doing nothing, and more"
    assert np.array_equal(translator(images[0], next(iter(recipe.edits)), 0), images[0])
