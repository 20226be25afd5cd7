"""The pixel network: what it computes, at any size, folded or not, and after a round trip through a folder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from agreement import assert_agrees, assert_same_pixels
from torch import Tensor, nn

from distill.pixel import PixelNetwork, laid_on, load_network, new_network, padded, translated
from distill.settings import PIXEL_SIZES, PixelSettings
from synth.errors import TrainingError

EDITS = {"red": "a red sofa", "blue": "a blue sofa"}
TINY = PixelSettings(widths=(8, 12, 16))


def lively(settings: PixelSettings = TINY) -> PixelNetwork:
    """A network whose normalizations have seen images, as after a training."""
    network = new_network(EDITS, settings).train()
    with torch.no_grad():
        for number in range(5):
            network(images(4, 48, 32, seed=number), torch.tensor([0, 1, 0, 1]), torch.ones(4))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.3, 0.3)
    return network.eval()


def images(num: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(num, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def call(network: PixelNetwork, image: Tensor, edit: int = 0, strength: float = 1.0) -> Tensor:
    with torch.no_grad():
        out: Tensor = network(image, torch.full((len(image),), edit), torch.full((len(image),), strength))
    return out


@pytest.mark.parametrize("strength", [1.0, 0.5, -1.0])
def test_colour_and_gate_are_laid_on(strength: float) -> None:
    image, colour = images(1, 2, 2), images(1, 2, 2, seed=1) / 4
    gate = torch.tensor([[[[0.0, 1.0], [0.5, 0.25]]]])
    out = laid_on(image / 4, colour, gate, torch.tensor([strength]))
    for row, column in np.ndindex(2, 2):
        g, x, c = gate[0, 0, row, column], image[0, :, row, column] / 4, colour[0, :, row, column]
        assert torch.allclose(out[0, :, row, column], x + strength * g * (c - x), atol=1e-6)
    assert torch.equal(out[0, :, 0, 0], image[0, :, 0, 0] / 4), "where the gate is 0, the image keeps its bits"


def test_the_answer_stays_in_range() -> None:
    white = torch.ones(1, 3, 1, 1)
    assert laid_on(white, -white, white[:, :1], torch.tensor([10.0])).min() == -1
    assert laid_on(-white, white, white[:, :1], torch.tensor([10.0])).max() == 1


@pytest.mark.parametrize("colour", [float("nan"), float("inf"), 3.0])
def test_strength_zero_returns_the_very_image(colour: float) -> None:
    image = images(2, 5, 7)
    proposed = torch.full_like(image, colour)
    out = laid_on(image, proposed, torch.ones(2, 1, 5, 7), torch.tensor([0.0, 1.0]))
    assert torch.equal(out[0], image[0]) and not torch.equal(out[1], image[1])


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 2), (16, 16), (17, 31), (50, 64)])
def test_any_size_is_padded_inside(size: tuple[int, int]) -> None:
    network, image = lively(), images(2, *size)
    out = call(network, image)
    assert out.shape == image.shape
    whole = padded(image, network.multiple)
    assert whole.shape[2] % 16 == whole.shape[3] % 16 == 0
    assert torch.equal(whole[..., -1], whole[..., size[1] - 1]), "the last column is repeated"
    assert_agrees(out, call(network, whole)[..., : size[0], : size[1]])


def test_padding_adds_nothing_where_none_is_needed() -> None:
    image = images(1, 32, 48)
    assert torch.equal(padded(image, 16), image)


@pytest.mark.parametrize("settings", [TINY, PixelSettings(widths=(4, 8), blocks=3), PixelSettings(size="large")])
def test_folded_is_the_same_function(settings: PixelSettings) -> None:
    network = lively(settings)
    folded = network.folded()
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules()), "the original stays"
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    image = images(2, 21, 34)
    for edit in (0, 1):
        assert_agrees(call(folded, image, edit), call(network, image, edit))
    assert_agrees(call(folded.folded(), image), call(network, image))


def test_edits_differ_and_samples_do_not_see_each_other() -> None:
    network, image = lively(), images(1, 20, 20).repeat(3, 1, 1, 1)
    with torch.no_grad():
        out = network(image, torch.tensor([0, 1, 0]), torch.ones(3))
    assert_agrees(out[0], out[2])
    assert (out[0] - out[1]).abs().max() > 0.01


def test_uint8_images_are_edited() -> None:
    network = lively()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 9, 11, 3), np.uint8)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    expected = (call(network, x, 1).permute(0, 2, 3, 1).numpy() + 1) * 127.5
    assert_same_pixels(translated(network, pixels, 1), expected.round().astype(np.uint8))


def test_first_weights_follow_from_the_seed_alone() -> None:
    torch.manual_seed(7)
    first = new_network(EDITS, TINY).state_dict()
    torch.manual_seed(8)
    again = new_network(EDITS, TINY).state_dict()
    other = new_network(EDITS, TINY.model_copy(update={"seed": 1})).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["vectors"], other["vectors"])


def test_the_named_sizes_are_as_promised() -> None:
    """Small: at most 3 MiB in float32; large: about three times that, never more than four."""
    small, large = (
        sum(4 * weight.numel() for weight in new_network(EDITS, PixelSettings(size=size)).folded().parameters())
        for size in ("small", "large")
    )
    assert small <= 3 * 2**20
    assert 2 * small < large <= 4 * small
    assert PixelSettings(size="large").shape() == PIXEL_SIZES["large"]
    assert PixelSettings(size="large", widths=(8, 16), blocks=3).shape() == ((8, 16), 3)


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    network = lively()
    network.save_pretrained(tmp_path)
    loaded = load_network(tmp_path)
    assert loaded.edits == EDITS
    image = images(2, 18, 18)
    assert torch.equal(call(loaded, image), call(network, image)), "statistics of the normalizations included"
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"no")
    with pytest.raises(TrainingError, match=r"distillery compress` writes it again"):
        load_network(tmp_path)
