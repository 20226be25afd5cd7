"""Zero-shot edits, on a tiny teacher: what must hold whatever the teacher knows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agreement import assert_agrees, assert_same_pixels
from click.testing import CliRunner
from PIL import Image

from distill.settings import EditSettings
from distill.zero_shot import Edited, edit
from flows.cli import main
from synth.errors import ImageInputError, TeacherError
from synth.teacher.teacher import Teacher

SHORT = EditSettings(iterations=3)


def make_image(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def test_the_same_text_twice_changes_nothing(tiny_teacher: Teacher) -> None:
    edited = edit(tiny_teacher, make_image(), "a red sofa", "a red sofa", SHORT)
    assert_agrees(edited.latents, edited.source_latents)  # to the bit where a batch's rows are computed alike
    assert_same_pixels(edited.images[0], make_image())


def test_it_repeats_for_a_seed_and_does_not_depend_on_company(tiny_teacher: Teacher) -> None:
    alone = edit(tiny_teacher, make_image(), "a red sofa", settings=SHORT).latents
    others = edit(
        tiny_teacher, [make_image(seed=5), make_image(), make_image(seed=6)], "a red sofa", settings=SHORT
    ).latents
    assert_agrees(others[1:2], alone)
    assert not torch.allclose(others[:1], alone) and not torch.allclose(others[2:], alone)
    other = edit(tiny_teacher, make_image(), "a red sofa", settings=SHORT.model_copy(update={"seed": 1})).latents
    assert not torch.allclose(other, alone, atol=1e-4)


def test_it_is_called_like_a_pipeline_of_diffusers(tiny_teacher: Teacher) -> None:
    def again(seed: int, **overrides: Any) -> Edited:
        generator = torch.Generator().manual_seed(seed)
        return edit(
            tiny_teacher,
            image=make_image(60, 40),
            source_prompt="a grey sofa",
            prompt="a red sofa",
            guidance_scale=5.0,
            iterations=2,
            generator=generator,
            **overrides,
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
        edit(tiny_teacher, make_image(), "a red sofa", guidence_scale=5.0)


def test_an_image_of_any_size_keeps_its_size(tiny_teacher: Teacher) -> None:
    for size in ((300, 200), (64, 40), (33, 57)):
        edited = edit(tiny_teacher, make_image(*size), "a red sofa", settings=SHORT)
        assert edited.images[0].size == size
        assert edited.latents.shape[2] * edited.latents.shape[3] == pytest.approx(64, rel=0.25)


def test_a_teacher_that_takes_coarser_sizes_gets_them(tiny_3_teacher: Teacher) -> None:
    assert tiny_3_teacher.size_multiple > tiny_3_teacher.vae_scale_factor
    edited = edit(tiny_3_teacher, make_image(72, 120), "a red sofa", settings=SHORT)
    assert edited.images[0].size == (72, 120)


def test_what_cannot_be_edited_is_refused(tiny_teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    for images, prompt, message in (
        ([], "a", "no image"),
        (make_image(), " ", "the prompt is empty"),
        ([make_image(), make_image(72)], "a", "several sizes"),
        (make_image(2000, 20), "a", "it is too large, or too long and narrow"),
        (Image.new("L", (8001, 8000)), "a", "8001 x 8000 cannot be edited: it is too large"),
        ([make_image(), make_image()], ["a"], "2 images and 1 prompts"),
    ):
        with pytest.raises(ImageInputError, match=message):
            edit(tiny_teacher, images, prompt, settings=SHORT)
    with pytest.raises(ImageInputError, match="2 images and 1 sources"):
        edit(tiny_teacher, [make_image(), make_image()], "a", ["b"], settings=SHORT)
    with pytest.raises(TeacherError, match="shorten it"):
        edit(tiny_teacher, make_image(), "a sofa " * 60, settings=SHORT)
    with pytest.raises(ImageInputError, match="not a finite number at iteration"):
        edit(tiny_teacher, make_image(), "a sofa", settings=EditSettings(iterations=9, learning_rate=1e38))
    monkeypatch.setattr(tiny_teacher, "few_steps", True)
    with pytest.raises(TeacherError, match="cannot serve as a scorer"):
        edit(tiny_teacher, make_image(), "a sofa", settings=SHORT)


def test_the_command_edits_files_and_shows_its_progress(tiny_sd_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "rooms").mkdir()
    for number, size in enumerate(((64, 64), (64, 64), (80, 48))):
        make_image(*size, seed=number).save(tmp_path / "rooms" / f"{number}.png")
    options = ["--prompt", "a red sofa", "--iterations", "2", "--teacher", str(tiny_sd_folder), "--series"]
    result = CliRunner().invoke(main, ["edit", str(tmp_path / "rooms"), *options, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == [
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
    make_image(900, 20).save(tmp_path / "rooms" / "3.png")
    before = (tmp_path / "out" / "0_edited.png").stat().st_mtime_ns
    again = CliRunner().invoke(
        main, ["edit", str(tmp_path / "rooms"), str(tmp_path / "notes.txt"), *options, "--out", str(tmp_path / "out")]
    )
    assert again.exit_code == 2 and "skipped: 3 results, made already" in again.stderr
    assert (tmp_path / "out" / "0_edited.png").stat().st_mtime_ns == before
    errors = [line for line in again.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert "3.png: an image of 900 x 20 cannot" in errors[0] and "notes.txt cannot be read as an image" in errors[1]


def test_an_edit_overwrites_no_file_of_a_person(tiny_sd_folder: Path, tmp_path: Path) -> None:
    """The live preview and the result lie beside an image of the preview's name."""
    source, own = tmp_path / "preview.png", tmp_path / "preview_edited.png"
    make_image(64, 64, seed=1).save(source)
    make_image(64, 64, seed=2).save(own)
    before = [source.read_bytes(), own.read_bytes()]
    options = [
        "--prompt",
        "a red sofa",
        "--iterations",
        "2",
        "--teacher",
        str(tiny_sd_folder),
        "--out",
        str(tmp_path),
    ]
    for _ in range(2):
        result = CliRunner().invoke(main, ["edit", str(source), *options])
        assert result.exit_code == 0, result.output
        assert result.stdout.split() == [str(tmp_path / "preview-png_edited.png")]
        assert [source.read_bytes(), own.read_bytes()] == before
        assert sorted(path.name for path in tmp_path.glob("[!.]*")) == [
            *("preview-2.png", "preview-png_edited.png", "preview.png", "preview_edited.png"),
        ]
    folder = CliRunner().invoke(main, ["edit", str(tmp_path), *options])
    assert folder.exit_code == 0 and len(list(tmp_path.glob("[!.]*"))) == 5  # the other image of theirs, edited
