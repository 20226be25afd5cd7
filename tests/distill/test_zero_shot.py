"""Zero-shot edits, on a tiny teacher: what must hold whatever the teacher knows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agreement import assert_agrees, assert_same_pixels
from click.testing import CliRunner
from PIL import Image

from distill.scores import dds
from distill.settings import EditSettings
from distill.zero_shot import STEP, Edited, Progress, draw, edit, firmly_thresholded, optimize
from flows.cli import main
from synth.errors import ImageInputError, TeacherError
from synth.teacher.teacher import Teacher

SHORT = EditSettings(iterations=3)


def picture(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def test_the_same_text_twice_changes_nothing(tiny_teacher: Teacher) -> None:
    edited = edit(tiny_teacher, picture(), "a red sofa", "a red sofa", SHORT)
    assert_agrees(edited.latents, edited.source_latents)  # to the bit where a batch's rows are computed alike
    assert_same_pixels(edited.images[0], picture())


def test_an_iteration_is_the_published_one(tiny_teacher: Teacher) -> None:
    """z - 0.0488 times the score at the published rate, 0.9 of it from the 21st iteration on."""
    settings = EditSettings(iterations=21)
    steps: list[tuple[torch.Tensor, float]] = []

    def watch(progress: Progress) -> None:
        steps.append((progress.latents.clone(), float(progress.update_norm[0])))

    y, y_hat = tiny_teacher.encode_prompt(["a red sofa"]), tiny_teacher.encode_prompt([""])
    z_hat = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    z = optimize(tiny_teacher, z_hat, y, y_hat, settings, watch)
    assert torch.equal(z, steps[-1][0]) and len(steps) == 21
    assert pytest.approx(0.1 * 2000 / 64**2) == 2 * STEP
    for iteration, rate in ((0, 2.0), (20, 1.8)):
        before = z_hat if iteration == 0 else steps[iteration - 1][0]
        t, eps = draw(settings, iteration, z_hat)
        g = dds(tiny_teacher, before, z_hat, y, y_hat, t, eps, 7.5)
        assert_agrees(steps[iteration][0], before - rate * STEP * g)
        assert steps[iteration][1] == pytest.approx(float((rate * STEP * g).norm()), rel=1e-4)


def test_small_changes_are_put_back_and_large_ones_stay(tiny_teacher: Teacher) -> None:
    z_hat = torch.randn(1, 4, 1, 3, generator=torch.Generator().manual_seed(0))
    change = torch.zeros(1, 4, 1, 3)
    change[0, 0, 0] = torch.tensor([0.9, 0.9, 3.0])
    change[0, 1, 0] = torch.tensor([0.0, 1.2, 4.0])  # lengths 0.9, 1.5 and 5
    z = firmly_thresholded(z_hat + change, z_hat, 2.0)
    assert torch.equal(z[..., 0], z_hat[..., 0])
    assert_agrees(z - z_hat, change * torch.tensor([0.0, 0.5, 1.0]), steps=10)
    free = edit(tiny_teacher, picture(), "a red sofa", settings=SHORT)
    held = edit(tiny_teacher, picture(), "a red sofa", settings=SHORT, firm_threshold=0.1)
    expected = firmly_thresholded(free.latents, free.source_latents, 0.1)
    assert torch.equal(held.latents, expected) and not torch.equal(expected, free.latents)


def test_it_repeats_for_a_seed_and_does_not_depend_on_company(tiny_teacher: Teacher) -> None:
    alone = edit(tiny_teacher, picture(), "a red sofa", settings=SHORT).latents
    others = edit(tiny_teacher, [picture(seed=5), picture(), picture(seed=6)], "a red sofa", settings=SHORT).latents
    assert_agrees(others[1:2], alone)
    assert not torch.allclose(others[:1], alone) and not torch.allclose(others[2:], alone)
    other = edit(tiny_teacher, picture(), "a red sofa", settings=SHORT.model_copy(update={"seed": 1})).latents
    assert not torch.allclose(other, alone, atol=1e-4)


def test_from_python_it_reads_like_a_pipeline_of_diffusers(tiny_teacher: Teacher) -> None:
    def again(seed: int, **changes: Any) -> Edited:
        generator = torch.Generator().manual_seed(seed)
        return edit(
            tiny_teacher,
            image=picture(60, 40),
            source_prompt="a grey sofa",
            prompt="a red sofa",
            guidance_scale=5.0,
            iterations=2,
            generator=generator,
            **changes,
        )

    pil = again(3).images
    assert np.array_equal(np.asarray(pil[0]), np.asarray(again(3).images[0]))
    assert not torch.equal(again(4).latents, again(3).latents)
    array, tensor = again(3, output_type="np").images, again(3, output_type="pt").images
    assert array.shape == (1, 40, 60, 3) and tensor.shape == (1, 3, 40, 60)
    assert np.array_equal(np.rint(array[0] * 255), np.asarray(pil[0]))
    assert np.array_equal(tensor.permute(0, 2, 3, 1).numpy(), array)
    latent = again(3, output_type="latent")
    assert torch.equal(latent.images, latent.latents)
    with pytest.raises(ValueError, match="guidence_scale"):
        edit(tiny_teacher, picture(), "a red sofa", guidence_scale=5.0)


def test_a_image_of_any_size_comes_back_as_large(tiny_teacher: Teacher) -> None:
    for size in ((300, 200), (64, 40), (33, 57)):
        edited = edit(tiny_teacher, picture(*size), "a red sofa", settings=SHORT)
        assert edited.images[0].size == size
        assert edited.latents.shape[2] * edited.latents.shape[3] == pytest.approx(64, rel=0.25)


def test_a_teacher_that_takes_coarser_sizes_gets_them(tiny_3_teacher: Teacher) -> None:
    assert tiny_3_teacher.size_multiple > tiny_3_teacher.vae_scale_factor
    edited = edit(tiny_3_teacher, picture(72, 120), "a red sofa", settings=SHORT)
    assert edited.images[0].size == (72, 120)


def test_the_baselines_go_other_ways(tiny_teacher: Teacher) -> None:
    results = {
        name: edit(tiny_teacher, picture(), "a red sofa", "a grey sofa", EditSettings(iterations=8, **changes))
        for name, changes in {
            "dds": {}, "sds": {"method": "sds"}, "regularized": {"method": "regularized-sds", "lambda_id": 5.0},
            "adam": {"optimizer": "adam"},
        }.items()
    }  # fmt: skip
    moved = {name: float((edited.latents - edited.source_latents).norm()) for name, edited in results.items()}
    assert len({round(value, 4) for value in moved.values()}) == 4
    assert moved["regularized"] < moved["sds"]


def test_what_cannot_be_edited_is_refused(tiny_teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    for images, prompt, message in (
        ([], "a", "no image"),
        (picture(), " ", "the prompt is empty"),
        ([picture(), picture(72)], "a", "several sizes"),
        (picture(2000, 20), "a", "too large, or too long and narrow"),
        (Image.new("L", (8001, 8000)), "a", "8001 x 8000 cannot be edited: too large"),
        ([picture(), picture()], ["a"], "2 images and 1 prompts"),
    ):
        with pytest.raises(ImageInputError, match=message):
            edit(tiny_teacher, images, prompt, settings=SHORT)
    with pytest.raises(ImageInputError, match="2 images and 1 sources"):
        edit(tiny_teacher, [picture(), picture()], "a", ["b"], settings=SHORT)
    with pytest.raises(TeacherError, match="shorten it"):
        edit(tiny_teacher, picture(), "a sofa " * 60, settings=SHORT)
    with pytest.raises(ImageInputError, match="no number at iteration"):
        edit(tiny_teacher, picture(), "a sofa", settings=EditSettings(iterations=9, learning_rate=1e38))
    monkeypatch.setattr(tiny_teacher, "few_steps", True)
    with pytest.raises(TeacherError, match="cannot serve as a scorer"):
        edit(tiny_teacher, picture(), "a sofa", settings=SHORT)


def test_the_command_edits_files_and_shows_the_way(tiny_sd_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "rooms").mkdir()
    for number, size in enumerate(((64, 64), (64, 64), (80, 48))):
        picture(*size, seed=number).save(tmp_path / "rooms" / f"{number}.png")
    options = ["--prompt", "a red sofa", "--iterations", "2", "--teacher", str(tiny_sd_folder), "--series"]
    result = CliRunner().invoke(main, ["edit", str(tmp_path / "rooms"), *options, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *(
            "0_edited.png",
            "0_series.gif",
            "1_edited.png",
            "1_series.gif",
            "2_edited.png",
            "2_series.gif",
            "preview.png",
        )
    ]
    with Image.open(tmp_path / "out" / "2_series.gif") as gif:
        assert gif.size == (80, 48) and gif.n_frames >= 2
    (tmp_path / "notes.txt").write_text("no image")
    picture(900, 20).save(tmp_path / "rooms" / "3.png")  # told before any of the others is edited
    for name, said in (
        ("notes.txt", "cannot be read as an image"),
        ("rooms", "3.png: a picture of 900 x 20 cannot"),
    ):
        refused = CliRunner().invoke(main, ["edit", str(tmp_path / name), *options, "--out", str(tmp_path / "no")])
        assert refused.exit_code == 2 and said in refused.stderr
        assert not list((tmp_path / "no").iterdir())
