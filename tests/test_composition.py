import torch

from distill.composition import LARGE, change_of_pixels


def test_what_is_left_alone_keeps_the_pictures_own_pixels() -> None:
    torch.manual_seed(0)
    image, plain = torch.rand(2, 2, 3, 8, 8) * 2 - 1
    assert torch.equal(change_of_pixels(image, plain, plain), torch.zeros_like(image))
    nearly = plain + 1e-3
    assert (change_of_pixels(image, nearly, plain) - 1e-3).abs().max() <= 1e-3 / LARGE * 2  # m of the VAE's loss


def test_a_large_change_leaves_nothing_of_the_picture() -> None:
    torch.manual_seed(0)
    image, plain = torch.rand(2, 2, 3, 8, 8) - 1
    edited = plain.clone()
    edited[:, 1] += LARGE * 1.01  # one channel is enough
    assert torch.allclose(image + change_of_pixels(image, edited, plain), edited, atol=1e-6)


def test_halfway_it_is_half_of_each() -> None:
    image, plain = torch.zeros(1, 3, 1, 1), torch.full((1, 3, 1, 1), -0.1)
    edited = plain + torch.tensor([0.0, LARGE / 2, 0.0]).view(1, 3, 1, 1)
    base = (image + plain) / 2
    assert torch.allclose(change_of_pixels(image, edited, plain), edited - base, atol=1e-7)
