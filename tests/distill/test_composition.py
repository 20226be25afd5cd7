import numpy as np
import pytest
import torch
from agreement import assert_agrees
from numpy.typing import NDArray
from torch import Tensor

from distill.composition import CERTAIN, CLEAR, FAINT, LARGE, LEAST, REPLACED, change_of_pixels, matte

CELL = 8


def flat(height: int = 24, width: int = 24, level: float = 0.0) -> Tensor:
    return torch.full((1, 3, height, width), level)


def test_what_is_not_edited_keeps_the_images_own_pixels() -> None:
    torch.manual_seed(0)
    image, plain = torch.rand(2, 2, 3, 16, 16) * 2 - 1
    assert torch.equal(change_of_pixels(image, plain, plain, CELL), torch.zeros_like(image))
    nearly = plain + 0.99 * FAINT * LEAST  # a student's remaining error
    assert torch.equal(change_of_pixels(image, nearly, plain, CELL), torch.zeros_like(image))


def test_a_small_change_is_a_difference_laid_onto_the_image() -> None:
    image, plain = flat(), flat(level=-0.1)
    added = change_of_pixels(image, plain + CLEAR, plain, CELL)
    # The mixture m = CLEAR / REPLACED of the image's own base stays.
    assert_agrees(added, CLEAR - (image - plain) * CLEAR / REPLACED, steps=100)


def test_half_an_edit_loses_no_more_than_the_whole() -> None:
    """Where nothing is lost to the VAE, the change follows the strength in a straight line."""
    torch.manual_seed(0)
    image = torch.zeros(3, 3, 24, 24)
    change = torch.rand(1, 3, 24, 24) * 0.3
    strength = torch.tensor([1.0, 0.5, -0.25])
    added = change_of_pixels(image, image + strength[:, None, None, None] * change, image, CELL, strength)
    assert_agrees(added[1], 0.5 * added[0], steps=1000)
    assert_agrees(added[2], -0.25 * added[0], steps=1000)
    assert (added[0] <= change).all() and added[0].mean() > 0.5 * change.mean()


def test_a_large_change_leaves_nothing_of_the_image() -> None:
    torch.manual_seed(0)
    image, plain = torch.rand(2, 2, 3, 16, 16) - 1
    edited = plain.clone()
    edited[:, 1] += REPLACED * 1.01  # one channel is enough
    assert_agrees(image + change_of_pixels(image, edited, plain, CELL), edited, steps=100)


def bleeding(edge: int, height: int = 48, width: int = 64) -> tuple[Tensor, Tensor, Tensor, NDArray[np.bool_]]:
    """A bright object on the left, and a change of it that bleeds over its edge as far as a latent does."""
    object_ = torch.arange(width) < edge
    image = torch.where(object_, 0.5, -0.5).expand(1, 3, height, width).clone()
    image += 0.02 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    distance = torch.arange(width) - edge
    haze = (0.4 - distance / 10).clamp(0, 1).where(distance >= 0, torch.tensor(1.0))  # 1 inside, 0.4 to 0 in 4 pixels
    change = (-0.8 * haze).expand_as(image)
    return image, image + change, image, object_.numpy()


def test_an_edit_ends_at_the_edge_of_its_object() -> None:
    edge = 32
    image, edited, plain, object_ = bleeding(edge)
    added = change_of_pixels(image, edited, plain, CELL).numpy()[0, :, 8:-8]
    assert np.abs((edited - plain).numpy()[..., ~object_]).max() > 0.3, "what the decode does"
    assert np.abs(added[..., ~object_]).max() < 0.12, "a third of it"
    assert np.abs(added[..., edge + 3 :]).max() == 0
    assert_agrees(torch.from_numpy(added[..., :30]), (edited - plain)[0, :, 8:-8, :30], steps=10**6)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_new_shape_keeps_its_own_edges(strength: float) -> None:
    """Where the image has no edge for it, a large change has the last word, also about half of an edit."""
    image, edited = flat(64, 64), flat(64, 64)
    edited[..., 16:48, 16:48] += CERTAIN * strength
    added = change_of_pixels(image, edited, image, CELL, strength)
    assert_agrees(added, edited, steps=1000)


def test_a_faint_new_shape_fades_at_its_rim() -> None:
    image, edited = flat(96, 96), flat(96, 96)
    edited[..., 24:72, 24:72] += LARGE
    added = change_of_pixels(image, edited, image, CELL)
    inner = slice(24 + 2 * CELL, 72 - 2 * CELL)
    assert_agrees(added[..., inner, inner], edited[..., inner, inner], steps=1000)
    assert 0.7 * LARGE < added[..., 24:72, 24:72].mean() < LARGE


def test_a_faint_edit_of_the_whole_image_stands() -> None:
    """A sunset changes everything a little: nothing is held back for being everywhere."""
    torch.manual_seed(0)
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    assert torch.all(matte(image, torch.full((1, 1, 32, 32), CLEAR * LEAST), CELL) > 0.999)


def test_what_is_faint_beside_a_large_change_is_haze() -> None:
    image, size = flat(32, 96, -0.8), torch.full((1, 1, 32, 96), CLEAR * LEAST)
    image[..., :16] = 0.8
    size[..., :16] = CERTAIN
    alpha = matte(image, size, CELL)
    assert alpha[..., :16].min() == 1 and alpha[..., 16:20].max() < 0.2 and alpha[..., 48:].min() > 0.999


@pytest.mark.parametrize("cell", [1, 2, 8])
@pytest.mark.parametrize("shape", [(8, 8), (8, 40), (24, 40), (72, 64)])
def test_any_size_has_a_matte_between_0_and_1(cell: int, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    image, size = torch.rand(2, 3, *shape) * 2 - 1, torch.rand(2, 1, *shape)
    alpha = matte(image, size, cell)
    assert alpha.shape == size.shape and alpha.min() >= 0 and alpha.max() <= 1
