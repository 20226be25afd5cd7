"""PIE-Bench's folder and metrics: what its own code reads and computes, worked out by hand on flat images."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import tiny_tokenizer
from tiny_judges import save_tiny_clip, save_tiny_dino
from tiny_pie import LEFT_HALF, write_pie_bench
from transformers import CLIPModel, ViTModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from distill.pie_bench.cases import CATEGORIES, decode_mask, encode_mask, read_cases
from distill.pie_bench.metrics import PUBLISHED, JudgeNames, Judges
from synth.errors import DatasetError

NUM_KEPT = 510 * 255  # the right half without the outermost pixels
KEY = "611000000000"


def test_a_mask_is_what_the_benchmarks_code_makes_of_it() -> None:
    mask = decode_mask([512 * 3 + 5, 4, 512 * 511 + 500, 9999])  # the second run goes beyond the end
    want = np.zeros((512, 512), bool)
    want[3, 5:9] = want[511, 500:] = True
    want[0], want[-1], want[:, 0], want[:, -1] = True, True, True, True
    np.testing.assert_array_equal(mask, want)
    assert decode_mask([]).sum() == 4 * 511  # the frame alone
    assert (~decode_mask(LEFT_HALF)).sum() == NUM_KEPT


def test_masks_survive_a_round_trip() -> None:
    mask = np.random.default_rng(0).random((512, 512)) < 0.3
    mask[[0, -1]] = mask[:, [0, -1]] = True
    np.testing.assert_array_equal(decode_mask(encode_mask(mask)), mask)
    assert encode_mask(np.zeros((512, 512), bool)) == []


def test_the_folder_is_read_with_prompts_and_categories(tmp_path: Path) -> None:
    cases = read_cases(write_pie_bench(tmp_path))
    assert [case.key for case in cases] == ["000000000000", "611000000000", "612000000000"]
    assert [CATEGORIES[case.category] for case in cases] == ["random", "change color", "change color"]
    assert (cases[1].source_prompt, cases[1].prompt) == ("a blue sofa in a room", "a red leather sofa in a room")
    assert cases[1].edited_words == {"red", "leather"}
    assert [case.key for case in read_cases(tmp_path, [0])] == ["000000000000"]
    assert cases[2].example().image[0, 0].tolist() == [102, 102, 102]
    assert len({case.fingerprint for case in cases}) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_path": "../x.png"}, "leads out of the folder"),
        ({"image_path": "/etc/hostname"}, "leads out of the folder"),
        ({"image_path": "6_gone/x.png"}, "6_gone/x.png is missing"),
        ({"mask": [1, 2, 3]}, "is not pairs of a start and a length"),
        ({"mask": [-1, 2]}, "is not pairs of a start and a length"),
        ({"mask": "1 2"}, "cannot be read"),
        ({"editing_type_id": "10"}, "no category '10'"),
        ({"editing_prompt": 3}, "cannot be read"),
    ],
)
def test_a_broken_entry_is_one_clear_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_pie_bench(tmp_path, {KEY: change})
    with pytest.raises(DatasetError, match=message) as error:
        read_cases(tmp_path)
    assert "mapping_file.json" in str(error.value) and "\n" not in str(error.value)


def test_other_folders_and_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"is not PIE-Bench: it has no mapping_file\.json"):
        read_cases(tmp_path)
    cases = read_cases(write_pie_bench(tmp_path))
    with pytest.raises(DatasetError, match="names no image of category 3"):
        read_cases(tmp_path, [3])
    Image.new("RGB", (300, 200)).save(cases[1].path)
    with pytest.raises(DatasetError, match="has 300 x 200 pixels and its mask 512 x 512"):
        cases[1].example()


def test_pixel_metrics_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    example = read_cases(write_pie_bench(tmp_path))[0].example()
    edited = example.image.copy()
    edited[:, :256] = 7  # inside: must not count
    edited[:, 256:] += 20
    metrics = Judges(JudgeNames()).measure(example, edited)
    error = (20 / 255) ** 2
    # As published: over all pixels, those that the mask makes black included.
    assert metrics["mse"] == pytest.approx(error * NUM_KEPT / 512**2, rel=1e-5)
    assert metrics["psnr"] == pytest.approx(-10 * math.log10(error * NUM_KEPT / 512**2), rel=1e-5)
    # Over the background's own pixels.
    assert metrics["mse_kept"] == pytest.approx(error, rel=1e-9)
    assert metrics["psnr_kept"] == pytest.approx(-10 * math.log10(error), rel=1e-9)
    # Two flat images have no structure: SSIM is its term of luminance, here at the middle of the background.
    a, b, c = 100 / 255, 120 / 255, 0.01**2
    luminance = (2 * a * b + c) / (a * a + b * b + c)
    assert luminance < metrics["ssim"] < 1.0  # the black half agrees with itself
    assert {metrics[name] for name in ("structure", "lpips", "clip_whole", "clip_edited")} == {None}


def test_ssim_of_flat_backgrounds_is_the_term_of_luminance(tmp_path: Path) -> None:
    example = read_cases(write_pie_bench(tmp_path, {"000000000000": {"mask": []}}))[0].example()
    metrics = Judges(JudgeNames()).measure(example, example.image + 20)
    a, b, c = 100 / 255, 120 / 255, 0.01**2
    luminance = (2 * a * b + c) / (a * a + b * b + c)
    assert metrics["ssim"] == pytest.approx(luminance, abs=2e-3)
    assert metrics["ssim_kept"] == pytest.approx(luminance, abs=2e-3)


def test_an_image_without_background_counts_nowhere(tmp_path: Path) -> None:
    example = read_cases(write_pie_bench(tmp_path, {"000000000000": {"mask": [0, 512 * 512]}}))[0].example()
    metrics = Judges(JudgeNames()).measure(example, 255 - example.image)
    assert set(metrics.values()) == {None}


def test_the_same_image_is_perfect(tmp_path: Path) -> None:
    example = read_cases(write_pie_bench(tmp_path))[0].example()
    metrics = Judges(JudgeNames()).measure(example, example.image)
    assert (metrics["psnr"], metrics["mse"], metrics["mse_kept"], metrics["psnr_kept"]) == (math.inf, 0, 0, 60)
    assert metrics["ssim"] == pytest.approx(1) and metrics["ssim_kept"] == pytest.approx(1)


def test_clip_is_a_hundred_times_the_cosine(tmp_path: Path) -> None:
    clip = save_tiny_clip(tmp_path / "clip")
    example = read_cases(write_pie_bench(tmp_path))[1].example()
    edited = np.random.default_rng(0).integers(0, 256, example.image.shape).astype(np.uint8)
    metrics = Judges(JudgeNames(clip=str(clip))).measure(example, edited)
    model = CLIPModel.from_pretrained(clip).eval()
    processor = CLIPImageProcessorPil.from_pretrained(clip)
    words = tiny_tokenizer()(["a red leather sofa in a room"], return_tensors="pt")
    assert example.mask is not None
    for name, image in (("clip_whole", edited), ("clip_edited", edited * example.mask[..., None])):
        with torch.no_grad():
            output = model(**processor(images=[image], return_tensors="pt"), **words)
        cosine = float((output.image_embeds @ output.text_embeds.T).item())
        assert metrics[name] == pytest.approx(max(0.0, 100 * cosine), abs=1e-3), name


def test_structure_is_computed_as_the_published_code_does(tmp_path: Path) -> None:
    dino = save_tiny_dino(tmp_path / "dino")
    example = read_cases(write_pie_bench(tmp_path))[0].example()
    edited = np.random.default_rng(0).integers(0, 256, example.image.shape).astype(np.uint8)
    metrics = Judges(JudgeNames(dino=str(dino))).measure(example, edited)
    model = ViTModel.from_pretrained(dino, add_pooling_layer=False).eval()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def similarity(image: np.ndarray) -> torch.Tensor:
        x = torch.tensor(image).float().permute(2, 0, 1)[None]
        x = torch.nn.functional.interpolate(x, (224, 224), mode="bilinear", align_corners=False)
        x = (x - mean.view(3, 1, 1)) / std.view(3, 1, 1)  # of 0 to 255, as there
        kept = []
        layers = [layer for name, layer in model.named_modules() if name.endswith(("k_proj", ".key"))]
        hook = layers[-1].register_forward_hook(lambda layer, inputs, keys: kept.append(keys[0]))
        with torch.no_grad():
            model(pixel_values=x)
        hook.remove()
        keys = kept[0]  # (T, D)
        norms = keys.norm(dim=1, keepdim=True)
        return (keys @ keys.T) / (norms @ norms.T).clamp(min=1e-8)

    want = (similarity(example.image) - similarity(edited)).square().mean().item()
    assert metrics["structure"] == pytest.approx(want, rel=1e-3)


def test_every_published_metric_has_a_column() -> None:
    assert set(PUBLISHED) == {"structure", "psnr", "lpips", "mse", "ssim", "clip_whole", "clip_edited"}
