"""The community pipeline, loaded as diffusers loads one, beside `distill.zero_shot.edit`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from distill.zero_shot import edit
from synth.miniature.score import WEIGHTS
from synth.settings import TeacherSettings
from synth.teacher.teacher import Teacher

FOLDER = Path(__file__).parents[2] / "examples" / "diffusers_pipeline"
PROMPTS = {"prompt": "a red leather sofa in a living room", "source_prompt": "a blue sofa in a living room"}


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers copies what it loads into its own cache."""
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))


def load(weights: Path) -> Any:
    pipe = DiffusionPipeline.from_pretrained(
        weights, custom_pipeline=str(FOLDER), trust_remote_code=True, safety_checker=None
    )
    assert type(pipe).__name__ == "DeltaDenoisingPipeline"
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(side: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8))
    return small.resize((side, side), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("folder", ["tiny_sd_folder", "tiny_v_folder", "miniature"])
def test_its_latents_are_those_of_the_project(folder: str, request: pytest.FixtureRequest) -> None:
    weights = WEIGHTS if folder == "miniature" else request.getfixturevalue(folder)
    teacher = Teacher.load(TeacherSettings(id=str(weights), device="cpu"))
    images = [picture(teacher.defaults.image_size, seed) for seed in (0, 1)]
    pipe = load(weights)
    given = {**PROMPTS, "guidance_scale": 4.0, "learning_rate": 1.5}
    ours = edit(
        teacher, images, iterations=3, generator=torch.Generator().manual_seed(5), output_type="latent", **given
    )
    theirs = pipe(
        image=images,
        num_inference_steps=3,
        generator=torch.Generator().manual_seed(5),
        output_type="latent",
        **given,
    )
    moved = (ours.latents - ours.source_latents).abs().max()
    assert moved > 1e-3
    torch.testing.assert_close(theirs.images, ours.latents, rtol=1e-4, atol=float(moved) * 1e-3)
    # One image alone, whatever it is edited with.
    alone = pipe(
        image=images[1],
        num_inference_steps=3,
        generator=torch.Generator().manual_seed(5),
        output_type="latent",
        **given,
    )
    torch.testing.assert_close(alone.images[0], theirs.images[1], rtol=1e-4, atol=float(moved) * 1e-3)


@pytest.mark.parametrize(("folder", "rate"), [("tiny_sd_folder", 3.0), ("miniature", 40.0)])
def test_its_images_are_those_of_the_project(folder: str, rate: float, request: pytest.FixtureRequest) -> None:
    """Within a level, with a haze to end at edges, and with changes small, large and none."""
    weights = WEIGHTS if folder == "miniature" else request.getfixturevalue(folder)
    teacher = Teacher.load(TeacherSettings(id=str(weights), device="cpu"))
    pipe, image = load(weights), picture(teacher.defaults.image_size)
    given = {**PROMPTS, "image": image, "guidance_scale": 7.5, "learning_rate": rate}
    ours = edit(teacher, iterations=3, generator=torch.Generator().manual_seed(5), output_type="np", **given)
    theirs = pipe(**given, num_inference_steps=3, generator=torch.Generator().manual_seed(5), output_type="np").images
    levels = np.abs(theirs * 255 - ours.images * 255)
    changed = np.abs(ours.images[0] * 255 - np.asarray(image)).max(axis=-1)
    assert changed.max() > 30 and (changed < 1).mean() > 0.01, "some of it changes, and some of it does not"
    assert levels.max() < 1.5, "rounded to levels in ours"
    assert np.square(levels).mean() < 0.2


def test_every_output_type_holds_the_same_image(tiny_sd_folder: Path, tiny_teacher: Teacher) -> None:
    pipe, image = load(tiny_sd_folder), picture(64)
    given = {**PROMPTS, "image": image, "num_inference_steps": 2}
    want = pipe(**given, output_type="np").images
    assert want.shape == (1, 64, 64, 3)
    (pil,) = pipe(**given).images
    np.testing.assert_allclose(np.asarray(pil), (want[0] * 255).round(), atol=1)
    tensor = pipe(**given, output_type="pt", return_dict=False)[0]
    np.testing.assert_allclose(tensor.permute(0, 2, 3, 1).numpy(), want, atol=1e-4)
    same = pipe(prompt="a sofa", source_prompt="a sofa", image=image, num_inference_steps=2).images[0]
    assert np.array_equal(same, image)  # equal texts: every score is zero


def test_callbacks_see_and_change_the_latents_as_in_diffusers(tiny_sd_folder: Path) -> None:
    pipe, seen = load(tiny_sd_folder), []

    def watch(pipeline: Any, step: int, timestep: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert pipeline is pipe and set(tensors) == {"latents", "source_latents"} and 50 <= timestep <= 949
        seen.append(step)
        pipeline._interrupt = step == 1
        return {"latents": tensors["source_latents"]}

    given = {**PROMPTS, "image": picture(64), "num_inference_steps": 9}
    names = ["latents", "source_latents"]
    (pil,) = pipe(**given, callback_on_step_end=watch, callback_on_step_end_tensor_inputs=names).images
    assert seen == [0, 1]
    assert np.array_equal(pil, given["image"])
    with pytest.raises(ValueError, match="there are 1 images and 2 texts"):
        pipe(["a", "b"], given["image"])
