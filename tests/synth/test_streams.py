"""Rejects, vetoes, lost shards and growth: the dataset is the same as that of an undisturbed run."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st
from noise_painter import NoisePainter
from tqdm import tqdm

from synth.dataset.building import DatasetBuilder, fingerprint, synthesize
from synth.dataset.filters import excluded_seeds
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.prompts import Scene
from synth.dataset.store import Store
from synth.settings import SceneSettings

PAINTER: Any = NoisePainter()


def fussy(scene: Scene, pixels: np.ndarray) -> str | None:
    """Rejects two of five images, by their first pixel."""
    return "dull" if pixels[0, 0, 0] % 5 < 2 else None


FUSSY = f"{__name__}:fussy"


def scenes(**overrides: Any) -> SceneSettings:
    base: dict[str, Any] = {
        "template": "a {color} {thing}",
        "slots": {"color": ["red", "blue", "green"], "thing": ["sofa", "chair"]},
        "count": 12,
        "batch_size": 3,
        "shard_size": 4,
        "filters": {"python": FUSSY, "near_duplicates": 15, "max_attempts": 60},
    }
    return SceneSettings(**{**base, **overrides})


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "data").glob("*"))}


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_every_way_to_a_dataset_gives_the_same_bytes(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 14))
    seed = data.draw(st.integers(0, 99))
    wanted = scenes(count=count, seed=seed)
    with tempfile.TemporaryDirectory() as name:
        undisturbed = Path(name) / "undisturbed"
        disturbed = Path(name) / "disturbed"
        synthesize(PAINTER, wanted, undisturbed, progress=False)
        for step in sorted(data.draw(st.lists(st.integers(1, count), max_size=3))):
            synthesize(PAINTER, scenes(count=step, seed=seed), disturbed, progress=False)
            for path in sorted((disturbed / "data").glob("*")):
                if data.draw(st.booleans()):
                    path.unlink()  # lost, with all its images
        worker = DatasetBuilder(PAINTER, wanted, disturbed)
        with tqdm(disable=True) as bar:
            for number in data.draw(st.permutations(list(worker.missing_shards()))):
                DatasetBuilder(PAINTER, wanted, disturbed).paint_shard(number, bar)
        worker.finish(0.0)
        assert shards(disturbed) == shards(undisturbed)
        assert ImageDataset(disturbed).fingerprint == ImageDataset(undisturbed).fingerprint


@settings(max_examples=15, deadline=None)
@given(st.sets(st.integers(0, 11), max_size=5), st.integers(0, 99))
def test_a_veto_changes_nothing_else(vetoed: set[int], seed: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = scenes(seed=seed, filters={"python": FUSSY, "max_attempts": 60})
        synthesize(PAINTER, plain, folder, progress=False)
        before = {row["index"]: row["seed"] for path in sorted((folder / "data").glob("*")) for row in rows(path)}
        (folder / "exclude.txt").write_text("".join(f"{before[index]}\n" for index in vetoed))
        assert excluded_seeds(Store(folder)) == {before[index] for index in vetoed}
        synthesize(PAINTER, plain, folder, progress=False)
        after = {row["index"]: row["seed"] for path in sorted((folder / "data").glob("*")) for row in rows(path)}
        assert {index for index in before if before[index] != after[index]} == vetoed


def rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path, columns=["index", "seed"]).to_pylist()


@given(st.sampled_from([
    {"seed": 1}, {"template": "the {color} {thing}"}, {"slots": {"color": ["red"], "thing": ["sofa"]}},
    {"guidance_scale": 2.0}, {"num_inference_steps": 3}, {"image_size": 24}, {"negative_prompt": "ugly"},
    {"batch_size": 4}, {"shard_size": 5}, {"filters": {"min_contrast": 1.0}},
]))  # fmt: skip
def test_the_fingerprint_covers_pixels_not_the_count(override: dict[str, Any]) -> None:
    """The fingerprint contains all that pixels depend on, and not the count."""
    assert fingerprint(PAINTER, scenes(**override)) != fingerprint(PAINTER, scenes())
    assert fingerprint(PAINTER, scenes(count=99)) == fingerprint(PAINTER, scenes())
