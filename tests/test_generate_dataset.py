"""Painting and keeping: every image its own, every shard whole, every folder one recipe's."""

import io
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
from transformers import CLIPConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from synth.dataset import PaintedSet, synthesize
from synth.errors import DatasetError, TeacherError
from synth.generate import generate
from synth.prompts import Template
from synth.seeds import derive_seed
from synth.settings import SceneSettings
from synth.teacher import Teacher

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


def paint(teacher: Teacher, indices: list[int], **changes: Any) -> list[np.ndarray]:
    return [np.asarray(image) for _, image in generate(teacher, Template(scenes(**changes)), indices)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "data").iterdir())}


@pytest.fixture(scope="module")
def painted(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize(tiny_teacher, scenes(), tmp_path_factory.mktemp("sofas"), progress=False)


# Painting


def test_an_image_depends_on_its_scene_and_not_on_its_company(tiny_teacher: Teacher) -> None:
    alone = paint(tiny_teacher, [3])
    together = paint(tiny_teacher, [0, 1, 2, 3, 4])
    assert len(together) == 5
    assert np.array_equal(together[3], alone[0])
    assert not np.array_equal(together[3], together[4])
    assert alone[0].shape == (64, 64, 3) and alone[0].dtype == np.uint8


def test_an_image_is_the_pipeline_s_own(tiny_teacher: Teacher) -> None:
    scene = Template(scenes()).scene(0)
    expected = tiny_teacher.pipeline(
        [scene.prompt],
        num_inference_steps=2,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(scene.seed),
    ).images[0]
    assert np.abs(paint(tiny_teacher, [0])[0].astype(int) - np.asarray(expected)).max() <= 1


def test_the_negative_prompt_counts(tiny_teacher: Teacher) -> None:
    assert not np.array_equal(paint(tiny_teacher, [0])[0], paint(tiny_teacher, [0], negative_prompt="grey")[0])


def test_a_prompt_that_would_be_cut_is_refused(tiny_teacher: Teacher) -> None:
    with pytest.raises(TeacherError, match="shorten it"):
        paint(tiny_teacher, [0], template="a {color} sofa with {wall} walls" + " and a lamp" * 40)


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


def test_a_blacked_out_image_is_painted_again_from_another_seed(strict_teacher: Teacher) -> None:
    """The checker's thresholds are set to what it sees in scene 1, so that exactly this image is refused."""
    checker = strict_teacher.pipeline.safety_checker
    checker.concept_embeds_weights.data.fill_(2)
    free = dict(enumerate(generate(strict_teacher, Template(scenes()), range(4))))
    seen = {index: cosines(strict_teacher, image) for index, (_, image) in free.items()}
    others = torch.stack([seen[index] for index in (0, 2, 3)])
    concept = int((seen[1] - others.max(0).values).argmax())
    threshold = (seen[1][concept] + others[:, concept].max()) / 2
    assert threshold < seen[1][concept]
    checker.concept_embeds_weights.data[concept] = threshold

    again = list(generate(strict_teacher, Template(scenes()), range(4)))
    for index, (_, image) in enumerate(again):
        assert np.asarray(image).any()
        same = np.array_equal(np.asarray(image), np.asarray(free[index][1]))
        assert same == (index != 1)
    tries = {derive_seed(0, "scene", 1, attempt) for attempt in range(1, 5)}
    assert again[1][0].seed in tries
    assert again[1][0].prompt == free[1][0].prompt


def test_a_scene_that_is_always_refused_is_an_error_and_never_stored(strict_teacher: Teacher, tmp_path: Path) -> None:
    strict_teacher.pipeline.safety_checker.concept_embeds_weights.data.fill_(-2)
    with pytest.raises(DatasetError, match=r"safety checker refused scene 0, 'a .* sofa .*', 5 times"):
        synthesize(strict_teacher, scenes(), tmp_path, progress=False)
    assert contents(tmp_path) == {}


def cosines(teacher: Teacher, image: Image.Image) -> torch.Tensor:
    """What the checker sees of its 17 concepts in an image."""
    checker = teacher.pipeline.safety_checker
    pixels = teacher.pipeline.feature_extractor(image, return_tensors="pt").pixel_values
    with torch.no_grad():
        embedding = checker.visual_projection(checker.vision_model(pixels)[1])
    return torch.nn.functional.cosine_similarity(embedding, checker.concept_embeds)


def test_numbers_that_overflow_are_an_error_and_no_black_image(tiny_teacher: Teacher, tmp_path: Path) -> None:
    bias = tiny_teacher.vae.decoder.conv_out.bias.data
    kept = bias.clone()
    bias.fill_(torch.nan)
    try:
        with pytest.raises(TeacherError, match="overflowed in float32"):
            synthesize(tiny_teacher, scenes(), tmp_path, progress=False)
    finally:
        bias.copy_(kept)


# Keeping


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
        "slot_color",
        "slot_wall",
    }
    assert rows["index"][:] == list(range(7))
    scene = Template(scenes()).scene(4)
    row = rows[4]
    assert (row["prompt"], row["seed"], row["slot_color"]) == (scene.prompt, scene.seed, scene.slots["color"])
    assert row["image"].size == (row["width"], row["height"]) == (64, 64)
    assert np.array_equal(np.asarray(row["image"]), PaintedSet(painted).image(4))


def test_a_painted_set_gives_back_what_was_painted(painted: Path, tiny_teacher: Teacher) -> None:
    images = PaintedSet(painted)
    template = Template(scenes())
    assert len(images) == 7
    assert images.prompts == [template.scene(index).prompt for index in range(7)]
    assert images.slots == [dict(template.scene(index).slots) for index in range(7)]
    for index in (6, 0, 3):  # in no order, and across shards
        assert np.array_equal(images.image(index), paint(tiny_teacher, [index])[0])
    assert images.image(0).flags.writeable


def test_the_shards_are_three_three_and_one(painted: Path) -> None:
    names = [f"train-0000{number}.parquet" for number in range(3)]
    assert list(contents(painted)) == names
    assert [pq.read_metadata(painted / "data" / name).num_rows for name in names] == [3, 3, 1]


def test_bytes_repeat(painted: Path, tiny_teacher: Teacher, tmp_path: Path) -> None:
    assert contents(synthesize(tiny_teacher, scenes(), tmp_path, progress=False)) == contents(painted)


def test_a_killed_run_goes_on_where_it_stopped(painted: Path, tiny_teacher: Teacher, tmp_path: Path) -> None:
    synthesize(tiny_teacher, scenes(), tmp_path, progress=False)
    (tmp_path / "data" / "train-00001.parquet").rename(tmp_path / "data" / "train-00001.parquet.part")
    with pytest.raises(DatasetError, match="missing or cut short"):
        PaintedSet(tmp_path)
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
    first = PaintedSet(tmp_path)
    untouched = (tmp_path / "data" / "train-00000.parquet").stat()
    synthesize(tiny_teacher, scenes(), tmp_path, progress=False)
    assert (tmp_path / "data" / "train-00000.parquet").stat().st_mtime_ns == untouched.st_mtime_ns
    assert contents(tmp_path) == contents(painted)
    assert PaintedSet(tmp_path).fingerprint == PaintedSet(painted).fingerprint != first.fingerprint


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
        PaintedSet(tmp_path)
    shard = tmp_path / "data" / "train-00000.parquet"
    shard.parent.mkdir()
    shard.write_bytes(b"half a shard")
    for read in (lambda: PaintedSet(tmp_path), lambda: synthesize(tiny_teacher, scenes(), tmp_path, progress=False)):
        with pytest.raises(DatasetError, match="delete it, and it will be painted again"):
            read()
    foreign = io.BytesIO()
    pq.write_table(pa.table({"text": ["hello"]}), foreign)
    shard.write_bytes(foreign.getvalue())
    with pytest.raises(DatasetError, match="not written by distillery"):
        PaintedSet(tmp_path)


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
