"""Keeping: every shard whole, every folder one recipe's, every reject with its reason."""

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
from tqdm import tqdm
from transformers import CLIPConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from synth.dataset.building import DatasetBuilder, synthesize
from synth.dataset.generate import completed, paint
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.prompts import Scene, Template
from synth.errors import DatasetError, RecipeError, TeacherError
from synth.settings import SceneSettings
from synth.teacher.teacher import Teacher

SOFAS: dict[str, Any] = {
    "template": "a {color} sofa with {wall} walls",
    "slots": {"color": ["red", "orange", "grey"], "wall": ["white", "green"]},
    "count": 7,
    "num_inference_steps": 2,
    "guidance_scale": 2.0,
    "batch_size": 2,
    "shard_size": 3,
}


def scenes(**changes: Any) -> SceneSettings:
    return SceneSettings(**{**SOFAS, **changes})


def contents(folder: Path) -> dict[str, bytes]:
    """The shards and the tables of rejects that are whole: what a painter is about to write has another ending."""
    found = [path for part in ("data", "rejects") for path in (folder / part).glob("*.parquet")]
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in sorted(found)}


@pytest.fixture(scope="module")
def painted(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sofas")
    synthesize(tiny_teacher, scenes(), folder, progress=False)
    return folder


def test_shards_open_in_datasets_with_nothing_of_ours(painted: Path, tmp_path: Path) -> None:
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


def test_a_painted_set_gives_back_what_was_painted(painted: Path, tiny_teacher: Teacher) -> None:
    images = ImageDataset(painted)
    template = Template(scenes())
    assert len(images) == 7
    assert images.prompts == [template.scene(index).prompt for index in range(7)]
    assert images.slots == [dict(template.scene(index).slots) for index in range(7)]
    for index in (6, 0, 3):  # in no order, and across shards
        settings = completed(scenes(), tiny_teacher)
        assert np.array_equal(
            images.image(index), np.asarray(paint(tiny_teacher, settings, [template.scene(index)])[0])
        )
    assert images.image(0).flags.writeable


def test_the_shards_are_three_three_and_one(painted: Path) -> None:
    names = [f"train-0000{number}.parquet" for number in range(3)]
    assert [path.name for path in sorted((painted / "data").iterdir())] == names
    assert [pq.read_metadata(painted / "data" / name).num_rows for name in names] == [3, 3, 1]


def test_bytes_repeat(painted: Path, tiny_teacher: Teacher, tmp_path: Path) -> None:
    synthesize(tiny_teacher, scenes(), tmp_path, progress=False)
    assert contents(tmp_path) == contents(painted)


def test_a_killed_run_goes_on_where_it_stopped(painted: Path, tiny_teacher: Teacher, tmp_path: Path) -> None:
    synthesize(tiny_teacher, scenes(), tmp_path, progress=False)
    (tmp_path / "data" / "train-00001.parquet").rename(tmp_path / "data" / ".train-00001.parquet.part")
    with pytest.raises(DatasetError, match="missing or cut short"):
        ImageDataset(tmp_path)
    kept = (tmp_path / "data" / "train-00000.parquet").stat()
    synthesize(tiny_teacher, scenes(), tmp_path, progress=False)
    assert (tmp_path / "data" / "train-00000.parquet").stat().st_mtime_ns == kept.st_mtime_ns
    assert contents(tmp_path) == contents(painted)


def test_a_finished_set_is_not_painted_again(painted: Path, tiny_teacher: Teacher) -> None:
    def forbidden(*_: Any) -> None:
        raise AssertionError("the teacher was called")

    hook = tiny_teacher.unet.register_forward_pre_hook(forbidden)
    synthesize(tiny_teacher, scenes(), painted, progress=False)
    hook.remove()


def test_a_set_grows_and_rewrites_its_short_shard_alone(painted: Path, tiny_teacher: Teacher, tmp_path: Path) -> None:
    synthesize(tiny_teacher, scenes(count=4), tmp_path, progress=False)
    first = ImageDataset(tmp_path)
    untouched = (tmp_path / "data" / "train-00000.parquet").stat()
    synthesize(tiny_teacher, scenes(), tmp_path, progress=False)
    assert (tmp_path / "data" / "train-00000.parquet").stat().st_mtime_ns == untouched.st_mtime_ns
    assert contents(tmp_path) == contents(painted)
    assert ImageDataset(tmp_path).fingerprint == ImageDataset(painted).fingerprint != first.fingerprint


def test_a_set_does_not_shrink(painted: Path, tiny_teacher: Teacher) -> None:
    with pytest.raises(DatasetError, match=r"holds 7 images .* and 4 are asked for"):
        synthesize(tiny_teacher, scenes(count=4), painted, progress=False)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"guidance_scale": 3.0}, "guidance_scale is 2.0 there and 3.0 here"),
        ({"seed": 5, "batch_size": 3}, "batch_size is 2 there and 3 here; seed is 0 there and 5 here"),
        ({"image_size": 72}, "image_size is 64 there and 72 here"),
    ],
)
def test_a_foreign_folder_is_refused_with_what_differs(
    painted: Path, tiny_teacher: Teacher, changes: dict[str, Any], difference: str
) -> None:
    before = contents(painted)
    with pytest.raises(DatasetError) as caught:
        synthesize(tiny_teacher, scenes(**changes), painted, progress=False)
    assert difference in str(caught.value) and "\n" not in str(caught.value)
    assert contents(painted) == before


def test_another_teacher_s_folder_is_refused(painted: Path, tiny_v_teacher: Teacher) -> None:
    with pytest.raises(DatasetError, match="teacher is"):
        synthesize(tiny_v_teacher, scenes(), painted, progress=False)


def test_folders_that_are_no_painted_set(tiny_teacher: Teacher, tmp_path: Path) -> None:
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


def test_the_card_says_what_it_is(painted: Path) -> None:
    card = (painted / "README.md").read_text()
    assert "n<1K" in card and "data/train-*.parquet" in card and "synthetic" in card
    assert SOFAS["template"] in card and "guidance 2" in card


def test_progress_says_who_paints_and_on_what(
    tiny_teacher: Teacher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthesize(tiny_teacher, scenes(count=1), tmp_path)
    said = capsys.readouterr()
    assert "on cpu in float32" in said.out
    assert "1/1" in said.err and "image" in said.err


# Rejects


@pytest.fixture
def strict_teacher(tiny_teacher: Teacher) -> Iterator[Teacher]:
    """The tiny teacher under a real safety checker, which has yet to be told what to refuse."""
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        checker = StableDiffusionSafetyChecker(
            CLIPConfig(
                text_config=tower, vision_config={**tower, "image_size": 32, "patch_size": 8}, projection_dim=8
            )
        ).eval()
        checker.concept_embeds.data = torch.randn(17, 8)
    checker.special_care_embeds_weights.data.fill_(2)  # cosines never pass 2
    size = {"height": 32, "width": 32}
    pipeline = tiny_teacher.pipeline
    pipeline.register_modules(
        safety_checker=checker, feature_extractor=CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size)
    )
    yield tiny_teacher
    pipeline.register_modules(safety_checker=None, feature_extractor=None)


def test_a_blacked_out_image_is_painted_again_from_another_seed(strict_teacher: Teacher, tmp_path: Path) -> None:
    """The checker's thresholds are set to what it sees in scene 1, so that exactly this image is refused."""
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


def test_a_scene_that_is_always_refused_is_an_error_and_never_stored(strict_teacher: Teacher, tmp_path: Path) -> None:
    strict_teacher.pipeline.safety_checker.concept_embeds_weights.data.fill_(-2)
    with pytest.raises(
        DatasetError, match=r"scene 0, 'a .* sofa .*', was rejected 12 times, last for: safety checker"
    ):
        synthesize(strict_teacher, scenes(batch_size=1), tmp_path, progress=False)
    assert contents(tmp_path) == {}


def rejects(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((folder / "rejects").glob("*")) for row in pq.read_table(path).to_pylist()]


def no_red(scene: Scene, picture: np.ndarray) -> str | None:
    """A filter of one's own, as a recipe names it: refuses words that will never do, and every fourth seed."""
    if "red" in scene.prompt:
        return "red"
    return "unlucky" if scene.seed % 4 == 0 else None


PICKY = {"filters": {"python": "test_dataset:no_red"}}


@pytest.fixture(scope="module")
def picked(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("picked")
    synthesize(tiny_teacher, scenes(count=10, **PICKY), folder, progress=False)
    return folder


def test_rejects_are_replaced_and_kept_with_their_reasons(picked: Path, tiny_teacher: Teacher) -> None:
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


def test_shards_may_be_painted_by_any_worker_in_any_order(
    picked: Path, tiny_teacher: Teacher, tmp_path: Path
) -> None:
    workers = [DatasetBuilder(tiny_teacher, scenes(count=10, **PICKY), tmp_path) for _ in range(2)]
    for turn, number in enumerate((3, 0, 2, 1)):
        with tqdm(disable=True) as bar:
            workers[turn % 2].paint_shard(number, bar)
    workers[0].finish(0.0)
    assert contents(tmp_path) == contents(picked)


def test_growing_gives_the_rows_of_a_set_painted_at_once(picked: Path, tiny_teacher: Teacher, tmp_path: Path) -> None:
    for count in (4, 5, 10):
        synthesize(tiny_teacher, scenes(count=count, **PICKY), tmp_path, progress=False)
    assert contents(tmp_path) == contents(picked)


def test_a_veto_replaces_its_image_alone(picked: Path, tiny_teacher: Teacher, tmp_path: Path) -> None:
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
    with pytest.raises(DatasetError, match=r"exclude.txt, line 1: 'the ugly one' is no seed"):
        synthesize(tiny_teacher, scenes(count=10, **PICKY), fresh, progress=False)


def test_near_duplicates_are_replaced_in_the_order_of_the_set(tiny_teacher: Teacher, tmp_path: Path) -> None:
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


def column(path: Path, name: str) -> list[Any]:
    return pq.read_table(path, columns=[name])[name].to_pylist()


def reject_all(scene: Scene, picture: np.ndarray) -> str:
    return "never good enough: " + scene.prompt


def test_a_hopeless_set_ends_with_the_reasons(tiny_teacher: Teacher, tmp_path: Path) -> None:
    hopeless = scenes(count=100, shard_size=100, filters={"python": "test_dataset:reject_all", "max_attempts": 99})
    with pytest.raises(DatasetError, match=r"of 60 images 0 were kept \(60 never good enough\): loosen"):
        synthesize(tiny_teacher, hopeless, tmp_path, progress=False)


def test_filters_that_cannot_be_used_are_refused_before_anything_is_painted(
    tiny_teacher: Teacher, tmp_path: Path
) -> None:
    for own in ("no.such:filter", "json:nothing", "json"):
        with pytest.raises(RecipeError, match=r"scenes\.filters\.python"):
            synthesize(tiny_teacher, scenes(filters={"python": own}), tmp_path, progress=False)
    with pytest.raises(RecipeError, match="it must return None to keep an image"):
        synthesize(
            tiny_teacher, scenes(filters={"python": "synth.dataset.filters:Verdict"}), tmp_path, progress=False
        )
    with pytest.raises(TeacherError, match="cannot be opened as a CLIP model"):
        synthesize(tiny_teacher, scenes(filters={"clip": str(tmp_path)}), tmp_path, progress=False)
    with pytest.raises(ValueError, match="looked for by CLIP"):
        scenes(filters={"object": "a sofa"})


def cosines(teacher: Teacher, image: Image.Image) -> torch.Tensor:
    """What the checker sees of its 17 concepts in an image."""
    checker = teacher.pipeline.safety_checker
    pixels = teacher.pipeline.feature_extractor(image, return_tensors="pt").pixel_values
    with torch.no_grad():
        embedding = checker.visual_projection(checker.vision_model(pixels)[1])
    return torch.nn.functional.cosine_similarity(embedding, checker.concept_embeds)
