"""Datasets: shards are whole, a folder holds one recipe, every reject has a reason."""

import io
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from small_datasets import PICKY, SOFAS, contents, painted, picked, scenes, synth_log
from tiny_judges import save_tiny_clip
from tqdm import tqdm
from transformers import CLIPConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from synth.dataset.building import DatasetBuilder, synthesize
from synth.dataset.filters import Filters
from synth.dataset.generate import completed, paint
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.prompts import Scene, Template
from synth.errors import DatasetError, RecipeError, TeacherError
from synth.teacher.teacher import Teacher

__all__ = ["painted", "picked", "synth_log"]  # fixtures


def test_datasets_opens_shards_without_this_project(painted: Path, tmp_path: Path) -> None:
    import datasets

    rows = datasets.load_dataset(str(painted), split="train", cache_dir=str(tmp_path))
    assert isinstance(rows.features["image"], datasets.Image)
    assert set(rows.column_names) == {
        "image",
        "prompt",
        "seed",
        "index",
        "width",
        "height",
        "contrast",
        "slot_color",
        "slot_wall",
    }
    assert rows["index"][:] == list(range(7))
    scene = Template(scenes()).scene(4)
    row = rows[4]
    assert (row["prompt"], row["seed"], row["slot_color"]) == (scene.prompt, scene.seed, scene.slots["color"])
    assert row["image"].size == (row["width"], row["height"]) == (64, 64)
    assert np.array_equal(np.asarray(row["image"]), ImageDataset(painted).image(4))


def test_a_dataset_returns_what_was_painted(painted: Path, tiny_teacher: Teacher) -> None:
    images = ImageDataset(painted)
    template = Template(scenes())
    assert len(images) == 7
    assert images.prompts == [template.scene(index).prompt for index in range(7)]
    assert images.slots == [dict(template.scene(index).slots) for index in range(7)]
    for index in (6, 0, 3):  # out of order, and across shards
        settings = completed(scenes(), tiny_teacher)
        assert np.array_equal(
            images.image(index), np.asarray(paint(tiny_teacher, settings, [template.scene(index)])[0])
        )
    assert images.image(0).flags.writeable


def test_batches_are_those_images(painted: Path) -> None:
    images = ImageDataset(painted)
    order = (6, 0, 3, 3, 1)  # across shards, and back
    batches = list(images.batches(order, 2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    for index, image in zip(order, itertools.chain(*batches), strict=True):
        np.testing.assert_array_equal(image, images.image(index))
        assert image.flags.writeable
    assert not list(images.batches([], 2))


def test_only_the_last_shard_is_short(painted: Path) -> None:
    names = [f"train-0000{number}.parquet" for number in range(3)]
    assert [path.name for path in sorted((painted / "data").iterdir())] == names
    assert [pq.read_metadata(painted / "data" / name).num_rows for name in names] == [3, 3, 1]


def test_painting_again_gives_the_same_bytes(painted: Path, tiny_teacher: Teacher, tmp_path: Path) -> None:
    synthesize(tiny_teacher, scenes(), tmp_path, progress=False)
    assert contents(tmp_path) == contents(painted)


def test_a_killed_run_resumes_where_it_stopped(painted: Path, tiny_teacher: Teacher, tmp_path: Path) -> None:
    synthesize(tiny_teacher, scenes(), tmp_path, progress=False)
    (tmp_path / "data" / "train-00001.parquet").rename(tmp_path / "data" / ".train-00001.parquet.part")
    with pytest.raises(DatasetError, match="missing or truncated"):
        ImageDataset(tmp_path)
    kept = (tmp_path / "data" / "train-00000.parquet").stat()
    synthesize(tiny_teacher, scenes(), tmp_path, progress=False)
    assert (tmp_path / "data" / "train-00000.parquet").stat().st_mtime_ns == kept.st_mtime_ns
    assert contents(tmp_path) == contents(painted)


def test_a_finished_dataset_is_not_painted_again(painted: Path, tiny_teacher: Teacher) -> None:
    def forbidden(*_: Any) -> None:
        raise AssertionError("the teacher was called")

    hook = tiny_teacher.unet.register_forward_pre_hook(forbidden)
    synthesize(tiny_teacher, scenes(), painted, progress=False)
    hook.remove()


def test_growing_rewrites_only_the_short_shard(painted: Path, tiny_teacher: Teacher, tmp_path: Path) -> None:
    synthesize(tiny_teacher, scenes(count=4), tmp_path, progress=False)
    first = ImageDataset(tmp_path)
    untouched = (tmp_path / "data" / "train-00000.parquet").stat()
    synthesize(tiny_teacher, scenes(), tmp_path, progress=False)
    assert (tmp_path / "data" / "train-00000.parquet").stat().st_mtime_ns == untouched.st_mtime_ns
    assert contents(tmp_path) == contents(painted)
    assert ImageDataset(tmp_path).fingerprint == ImageDataset(painted).fingerprint != first.fingerprint


def test_a_dataset_does_not_shrink(painted: Path, tiny_teacher: Teacher) -> None:
    with pytest.raises(DatasetError, match=r"holds 7 images of this recipe, more than the 4 requested"):
        synthesize(tiny_teacher, scenes(count=4), painted, progress=False)


@pytest.mark.parametrize(
    ("overrides", "difference"),
    [
        ({"guidance_scale": 3.0}, "guidance_scale is 2.0 there and 3.0 here"),
        ({"seed": 5, "batch_size": 3}, "batch_size is 2 there and 3 here; seed is 0 there and 5 here"),
        ({"image_size": 72}, "image_size is 64 there and 72 here"),
    ],
)
def test_a_foreign_folder_is_refused_with_what_differs(
    painted: Path, tiny_teacher: Teacher, overrides: dict[str, Any], difference: str
) -> None:
    before = contents(painted)
    with pytest.raises(DatasetError) as caught:
        synthesize(tiny_teacher, scenes(**overrides), painted, progress=False)
    assert difference in str(caught.value) and "\n" not in str(caught.value)
    assert contents(painted) == before


def test_another_teachers_folder_is_refused(painted: Path, tiny_v_teacher: Teacher) -> None:
    with pytest.raises(DatasetError, match="teacher is"):
        synthesize(tiny_v_teacher, scenes(), painted, progress=False)


def test_folders_without_a_dataset_are_refused(tiny_teacher: Teacher, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="run `distillery synthesize` first"):
        ImageDataset(tmp_path)
    shard = tmp_path / "data" / "train-00000.parquet"
    shard.parent.mkdir()
    shard.write_bytes(b"half a shard")
    for read in (
        lambda: ImageDataset(tmp_path),
        lambda: synthesize(tiny_teacher, scenes(), tmp_path, progress=False),
    ):
        with pytest.raises(DatasetError, match="delete it, and it will be painted again"):
            read()
    foreign = io.BytesIO()
    pq.write_table(pa.table({"text": ["hello"]}), foreign)
    shard.write_bytes(foreign.getvalue())
    with pytest.raises(DatasetError, match="not written by distillery"):
        ImageDataset(tmp_path)


def test_the_card_describes_the_dataset(painted: Path) -> None:
    card = (painted / "README.md").read_text()
    assert "n<1K" in card and "data/train-*.parquet" in card and "synthetic" in card
    assert SOFAS["template"] in card and "guidance 2" in card


def test_progress_names_the_teacher_and_its_device(
    tiny_teacher: Teacher, tmp_path: Path, capsys: pytest.CaptureFixture[str], synth_log: pytest.LogCaptureFixture
) -> None:
    synthesize(tiny_teacher, scenes(count=1), tmp_path)
    assert len(synth_log.messages) == 1 and "on cpu in float32" in synth_log.messages[0]
    bar = capsys.readouterr().err
    assert "1/1" in bar and "image" in bar


# Rejects


@pytest.fixture
def strict_teacher(tiny_teacher: Teacher) -> Iterator[Teacher]:
    """The tiny teacher with a real safety checker, whose thresholds each test sets."""
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        checker = StableDiffusionSafetyChecker(
            CLIPConfig(
                text_config=tower, vision_config={**tower, "image_size": 32, "patch_size": 8}, projection_dim=8
            )
        ).eval()
        checker.concept_embeds.data = torch.randn(17, 8)
    checker.special_care_embeds_weights.data.fill_(2)  # cosines never exceed 2
    size = {"height": 32, "width": 32}
    pipeline = tiny_teacher.pipeline
    pipeline.register_modules(
        safety_checker=checker, feature_extractor=CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size)
    )
    yield tiny_teacher
    pipeline.register_modules(safety_checker=None, feature_extractor=None)


def test_a_blacked_out_image_is_painted_again(strict_teacher: Teacher, tmp_path: Path) -> None:
    """From another seed. A threshold between scene 1 and the others makes the checker refuse exactly this image."""
    checker = strict_teacher.pipeline.safety_checker
    checker.concept_embeds_weights.data.fill_(2)
    synthesize(strict_teacher, scenes(count=4), tmp_path / "free", progress=False)
    free = ImageDataset(tmp_path / "free")
    seen = [cosines(strict_teacher, Image.fromarray(image)) for image in free]
    others = torch.stack([seen[index] for index in (0, 2, 3)])
    concept = int((seen[1] - others.max(0).values).argmax())
    threshold = (seen[1][concept] + others[:, concept].max()) / 2
    assert threshold < seen[1][concept]
    checker.concept_embeds_weights.data[concept] = threshold

    synthesize(strict_teacher, scenes(count=4), tmp_path / "strict", progress=False)
    again = ImageDataset(tmp_path / "strict")
    for index in range(4):
        assert again.image(index).any()
        assert np.array_equal(again.image(index), free.image(index)) == (index != 1)
    assert again.prompts[1] == free.prompts[1]
    (gone,) = rejects(tmp_path / "strict")
    assert (gone["index"], gone["attempt"], gone["reason"], gone["image"]) == (1, 0, "safety checker", None)


def test_a_scene_that_is_always_refused_is_an_error(strict_teacher: Teacher, tmp_path: Path) -> None:
    """And nothing is stored."""
    strict_teacher.pipeline.safety_checker.concept_embeds_weights.data.fill_(-2)
    with pytest.raises(
        DatasetError, match=r"scene 0, 'a .* sofa .*', was rejected 12 times, last for: safety checker"
    ):
        synthesize(strict_teacher, scenes(batch_size=1), tmp_path, progress=False)
    assert contents(tmp_path) == {}


def rejects(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((folder / "rejects").glob("*")) for row in pq.read_table(path).to_pylist()]


def test_rejects_are_replaced_and_stored_with_reasons(picked: Path, tiny_teacher: Teacher) -> None:
    kept, gone = ImageDataset(picked), rejects(picked)
    assert len(kept) == 10
    assert all("red" not in prompt for prompt in kept.prompts)
    plain = Template(scenes())
    assert {row["index"] for row in gone if row["attempt"] == 0 and row["reason"] == "red"} == {
        index for index in range(10) if "red" in plain.scene(index).prompt
    }
    for row in gone:
        assert row["reason"] in ("red", "unlucky")
        assert Image.open(io.BytesIO(row["image"]["bytes"])).size == (64, 64)
    card = (picked / "README.md").read_text()
    assert f"{len(gone)} of {len(gone) + 10} images" in card and "| red |" in card
    pages = "".join(path.read_text() for path in sorted((picked / "preview").glob("*.html")))
    assert pages.count("<figure") == len(gone) + 10 and "unlucky: " in pages
    assert (picked / "preview.html").read_text().count("preview/train-") == 4


def test_workers_paint_shards_in_any_order(picked: Path, tiny_teacher: Teacher, tmp_path: Path) -> None:
    workers = [DatasetBuilder(tiny_teacher, scenes(count=10, **PICKY), tmp_path) for _ in range(2)]
    for turn, number in enumerate((3, 0, 2, 1)):
        with tqdm(disable=True) as bar:
            workers[turn % 2].paint_shard(number, bar)
    workers[0].finish(0.0)
    assert contents(tmp_path) == contents(picked)


def test_growing_gives_the_same_bytes_as_painting_at_once(
    picked: Path, tiny_teacher: Teacher, tmp_path: Path
) -> None:
    for count in (4, 5, 10):
        synthesize(tiny_teacher, scenes(count=count, **PICKY), tmp_path, progress=False)
    assert contents(tmp_path) == contents(picked)


def test_a_veto_replaces_only_its_image(picked: Path, tiny_teacher: Teacher, tmp_path: Path) -> None:
    shutil.copytree(picked, tmp_path / "vetoed")
    before = ImageDataset(picked)
    seed = pq.read_table(picked / "data" / "train-00001.parquet")["seed"][1].as_py()
    (tmp_path / "vetoed" / "exclude-00001.txt").write_text(f"{seed}  # ugly\n\n")
    synthesize(tiny_teacher, scenes(count=10, **PICKY), tmp_path / "vetoed", progress=False)
    after = ImageDataset(tmp_path / "vetoed")
    changed = [index for index in range(10) if not np.array_equal(before.image(index), after.image(index))]
    assert changed == [4] and after.fingerprint != before.fingerprint
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    shutil.copy(tmp_path / "vetoed" / "exclude-00001.txt", fresh)
    synthesize(tiny_teacher, scenes(count=10, **PICKY), fresh, progress=False)
    assert {name: data for name, data in contents(fresh).items() if name.startswith("data")} == {
        name: data for name, data in contents(tmp_path / "vetoed").items() if name.startswith("data")
    }
    (fresh / "exclude.txt").write_text("the ugly one\n")
    with pytest.raises(DatasetError, match=r"exclude.txt cannot be read .line 1: 'the ugly one' is not a seed"):
        synthesize(tiny_teacher, scenes(count=10, **PICKY), fresh, progress=False)


def test_near_duplicates_are_replaced(tiny_teacher: Teacher, tmp_path: Path) -> None:
    """In the order of the dataset, so that growing gives the same bytes."""
    near = {"count": 9, "filters": {"near_duplicates": 26, "max_attempts": 40}}
    synthesize(tiny_teacher, scenes(**near), tmp_path / "once", progress=False)
    gone = rejects(tmp_path / "once")
    assert gone and {row["reason"] for row in gone} == {"near duplicate of an earlier image"}
    hashes = [
        int(value, 16) for path in sorted((tmp_path / "once" / "data").iterdir()) for value in column(path, "phash")
    ]
    assert min(bin(a ^ b).count("1") for a, b in itertools.combinations(hashes, 2)) > 26
    for count in (5, 9):
        synthesize(tiny_teacher, scenes(**{**near, "count": count}), tmp_path / "grown", progress=False)
    assert contents(tmp_path / "grown") == contents(tmp_path / "once")


def test_clip_sits_where_the_teacher_does(
    tiny_teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `teacher.device = "cpu"` on the CPU, whatever the machine has, and with "cuda:1" on that card."""
    clip = save_tiny_clip(tmp_path / "clip")
    settings = scenes(count=2, filters={"clip": str(clip), "min_clip_score": -1})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    builder = DatasetBuilder(tiny_teacher, settings, tmp_path / "set")
    builder.paint_shard(0, tqdm(disable=True))
    assert len(column(tmp_path / "set" / "data" / "train-00000.parquet", "clip_score")) == 2
    other = torch.device("meta")  # a device that every machine has
    own = Filters(settings.filters, other)._clip
    assert own is not None and own._model.device == other


def column(path: Path, name: str) -> list[Any]:
    return pq.read_table(path, columns=[name])[name].to_pylist()


def reject_all(scene: Scene, pixels: np.ndarray) -> str:
    return "never good enough: " + scene.prompt


def test_a_hopeless_run_ends_with_the_reasons(tiny_teacher: Teacher, tmp_path: Path) -> None:
    filters = {"python": f"{__name__}:reject_all", "max_attempts": 99}
    hopeless = scenes(count=100, shard_size=100, filters=filters)
    with pytest.raises(DatasetError, match=r"of 60 images 0 were kept \(60 never good enough\): loosen"):
        synthesize(tiny_teacher, hopeless, tmp_path, progress=False)


def test_unusable_filters_are_refused(tiny_teacher: Teacher, tmp_path: Path) -> None:
    """Before anything is painted, where that can be known."""
    for own in ("no.such:filter", "json:nothing", "json"):
        with pytest.raises(RecipeError, match=r"scenes\.filters\.python"):
            synthesize(tiny_teacher, scenes(filters={"python": own}), tmp_path, progress=False)
    with pytest.raises(RecipeError, match="it must return None to keep an image"):
        synthesize(
            tiny_teacher, scenes(filters={"python": "synth.dataset.filters:Verdict"}), tmp_path, progress=False
        )
    with pytest.raises(TeacherError, match="cannot be opened as a CLIP model"):
        synthesize(tiny_teacher, scenes(filters={"clip": str(tmp_path)}), tmp_path, progress=False)
    with pytest.raises(ValueError, match="object needs CLIP"):
        scenes(filters={"object": "a sofa"})


def cosines(teacher: Teacher, image: Image.Image) -> torch.Tensor:
    """The similarities of an image to the checker's 17 concepts."""
    checker = teacher.pipeline.safety_checker
    pixels = teacher.pipeline.feature_extractor(image, return_tensors="pt").pixel_values
    with torch.no_grad():
        embedding = checker.visual_projection(checker.vision_model(pixels)[1])
    return torch.nn.functional.cosine_similarity(embedding, checker.concept_embeds)
