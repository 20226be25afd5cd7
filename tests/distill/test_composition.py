import torch
from agreement import assert_agrees

from distill.composition import LARGE, SMALL, change_of_pixels


def test_what_is_not_edited_keeps_the_images_own_pixels() -> None:
    torch.manual_seed(0)
    image, plain = torch.rand(2, 2, 3, 8, 8) * 2 - 1
    assert torch.equal(change_of_pixels(image, plain, plain), torch.zeros_like(image))
    nearly = plain + SMALL / 100
    assert change_of_pixels(image, nearly, plain).abs().max() < SMALL / 100 / 10


def test_a_small_change_is_a_difference_laid_onto_the_image() -> None:
    image, plain = torch.zeros(1, 3, 1, 1), torch.full((1, 3, 1, 1), -0.1)
    added = change_of_pixels(image, plain + SMALL, plain)
    # The mixture m = SMALL / LARGE of the image's own base stays.
    assert_agrees(added, SMALL - (image - plain) * SMALL / LARGE, steps=10)


def test_half_an_edit_loses_no_more_than_the_whole() -> None:
    """Where nothing is lost to the VAE, the change follows the strength in a straight line."""
    torch.manual_seed(0)
    image = torch.zeros(3, 3, 8, 8)
    change = torch.rand(1, 3, 8, 8) * 0.3
    strength = torch.tensor([1.0, 0.5, -0.25])
    added = change_of_pixels(image, image + strength[:, None, None, None] * change, image, strength)
    assert_agrees(added[1], 0.5 * added[0], steps=100)
    assert_agrees(added[2], -0.25 * added[0], steps=100)
    assert (added[0] <= change).all() and (added[0] < change * 0.9).any()


def test_a_large_change_leaves_nothing_of_the_image() -> None:
    torch.manual_seed(0)
    image, plain = torch.rand(2, 2, 3, 8, 8) - 1
    edited = plain.clone()
    edited[:, 1] += LARGE * 1.01  # one channel is enough
    assert_agrees(image + change_of_pixels(image, edited, plain), edited, steps=10)


def test_halfway_it_is_half_of_each() -> None:
    image, plain = torch.zeros(1, 3, 1, 1), torch.full((1, 3, 1, 1), -0.1)
    edited = plain + torch.tensor([0.0, LARGE / 2, 0.0]).view(1, 3, 1, 1)
    base = (image + plain) / 2
    assert_agrees(change_of_pixels(image, edited, plain), edited - base, steps=10)
