"""The scores, against a transcription of the paper's formulas that shares no line with the code."""

from copy import deepcopy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from distill.scores import dds, identity_loss, sds, shared_source_dds, surrogate_loss
from synth.teacher import Conditioning, Teacher

NUM_IMAGES, NUM_EDITS, OMEGA = 2, 3, 7.5


@dataclass
class Draw:
    z: Tensor  # (B, K, C, h, w)
    z_hat: Tensor  # (B, C, h, w)
    y: Conditioning  # of B*K
    y_hat: Conditioning  # of B
    t: Tensor  # (B,)
    eps: Tensor  # (B, C, h, w)


@pytest.fixture(scope="module")
def teacher(tiny_teacher: Teacher) -> Teacher:
    """The tiny teacher in float64, so that an equality is one of formulas and not of luck."""
    pipeline = deepcopy(tiny_teacher.pipeline)
    for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        network.double()
    double = Teacher(pipeline, "tiny", tiny_teacher.fingerprint, tiny_teacher.defaults)
    double.alphas_cumprod = double.alphas_cumprod.double()
    return double


@pytest.fixture(scope="module")
def draw(teacher: Teacher) -> Draw:
    return make_draw(teacher)


def make_draw(teacher: Teacher, size: tuple[int, int] = (8, 8)) -> Draw:
    generator = torch.Generator().manual_seed(0)
    shape = (NUM_IMAGES, teacher.latent_channels, *size)
    z_hat, eps = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    moved = torch.randn((NUM_IMAGES, NUM_EDITS, *shape[1:]), generator=generator, dtype=torch.float64)
    return Draw(
        z=z_hat[:, None] + 0.3 * moved,
        z_hat=z_hat,
        y=teacher.encode_prompt(["red leather", "blue fabric", "a sofa", "leather", "red", "blue sofa"]),
        y_hat=teacher.encode_prompt(["a room", "a blue sofa"]),
        t=torch.tensor([120, 801]),
        eps=eps,
    )


def written_out(teacher: Teacher, z: Tensor, y: Tensor, t: int, eps: Tensor, omega: float) -> Tensor:
    """eps^omega(z_t, y, t) of one sample, as the paper writes it: one formula a line, one network call a term."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = teacher.alphas_cumprod[t]
    assert alpha_bar == pytest.approx(float(torch.cumprod(1 - betas, 0)[t]), rel=1e-4)
    z_t = alpha_bar**0.5 * z + (1 - alpha_bar) ** 0.5 * eps
    null = teacher.encode_prompt([""]).prompt_embeds
    eps_null = teacher.unet(z_t[None], torch.tensor(t), encoder_hidden_states=null).sample[0]
    eps_y = teacher.unet(z_t[None], torch.tensor(t), encoder_hidden_states=y[None]).sample[0]
    return eps_null + omega * (eps_y - eps_null)


def dds_written_out(teacher: Teacher, draw: Draw, image: int, edit: int, omega: float) -> Tensor:
    t, eps = int(draw.t[image]), draw.eps[image]
    y, y_hat = draw.y.prompt_embeds[image * NUM_EDITS + edit], draw.y_hat.prompt_embeds[image]
    edited = written_out(teacher, draw.z[image, edit], y, t, eps, omega)
    return edited - written_out(teacher, draw.z_hat[image], y_hat, t, eps, omega)


@pytest.mark.parametrize("omega", [1.0, OMEGA])
def test_sds_is_the_formula(teacher: Teacher, draw: Draw, omega: float) -> None:
    got = sds(teacher, draw.z_hat, draw.y_hat, draw.t, draw.eps, omega)
    for image in range(NUM_IMAGES):
        y_hat, eps = draw.y_hat.prompt_embeds[image], draw.eps[image]
        want = written_out(teacher, draw.z_hat[image], y_hat, int(draw.t[image]), eps, omega) - eps
        torch.testing.assert_close(got[image], want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("omega", [1.0, OMEGA])
def test_dds_is_the_formula(teacher: Teacher, draw: Draw, omega: float) -> None:
    first = draw.y[torch.arange(NUM_IMAGES) * NUM_EDITS]
    got = dds(teacher, draw.z[:, 0], draw.z_hat, first, draw.y_hat, draw.t, draw.eps, omega)
    for image in range(NUM_IMAGES):
        want = dds_written_out(teacher, draw, image, 0, omega)
        torch.testing.assert_close(got[image], want, rtol=1e-9, atol=1e-9)
        assert want.abs().max() > 1e-3


def test_dds_is_the_difference_of_two_sds(teacher: Teacher, draw: Draw) -> None:
    z, y = draw.z[:, 1], draw.y[torch.arange(NUM_IMAGES) * NUM_EDITS + 1]
    got = dds(teacher, z, draw.z_hat, y, draw.y_hat, draw.t, draw.eps, OMEGA)
    want = sds(teacher, z, y, draw.t, draw.eps, OMEGA) - sds(teacher, draw.z_hat, draw.y_hat, draw.t, draw.eps, OMEGA)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(8, 8), (9, 13)])
def test_sharing_the_source_is_the_plain_way(teacher: Teacher, size: tuple[int, int]) -> None:
    draw = make_draw(teacher, size)
    got = shared_source_dds(teacher, draw.z, draw.z_hat, draw.y, draw.y_hat, draw.t, draw.eps, OMEGA)
    assert got.shape == draw.z.shape
    for image in range(NUM_IMAGES):
        for edit in range(NUM_EDITS):
            want = dds_written_out(teacher, draw, image, edit, OMEGA)
            torch.testing.assert_close(got[image, edit], want, rtol=1e-9, atol=1e-9)


def test_sharing_the_source_takes_one_call_of_2_plus_2k_passes_an_image(teacher: Teacher, draw: Draw) -> None:
    sizes: list[int] = []
    hook = teacher.unet.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    shared_source_dds(teacher, draw.z, draw.z_hat, draw.y, draw.y_hat, draw.t, draw.eps, OMEGA)
    hook.remove()
    assert sizes == [NUM_IMAGES * (2 + 2 * NUM_EDITS)]


def test_dds_of_equal_branches_is_exactly_zero(tiny_teacher: Teacher) -> None:
    """In the teacher's own precision: the same samples in one batch give the same bits."""
    draw = make_draw(tiny_teacher)
    z_hat, eps = draw.z_hat.float(), draw.eps.float()
    gradient = dds(tiny_teacher, z_hat, z_hat.clone(), draw.y_hat, draw.y_hat, draw.t, eps, OMEGA)
    assert torch.equal(gradient, torch.zeros_like(gradient))
    assert sds(tiny_teacher, z_hat, draw.y_hat, draw.t, eps, OMEGA).abs().max() > 0.1  # which is what cancelled


def test_the_surrogates_autograd_is_the_gradient_and_skips_the_unets_jacobian(teacher: Teacher, draw: Draw) -> None:
    z = draw.z.clone().requires_grad_()
    gradient = shared_source_dds(teacher, z, draw.z_hat, draw.y, draw.y_hat, draw.t, draw.eps, OMEGA)
    assert not gradient.requires_grad
    surrogate_loss(z, gradient).backward()
    assert z.grad is not None and torch.equal(z.grad, gradient)


def test_the_identity_losss_gradient_is_the_supplements(draw: Draw) -> None:
    z = draw.z.clone().requires_grad_()
    identity_loss(z, draw.z_hat[:, None]).backward()
    torch.testing.assert_close(z.grad, draw.z - draw.z_hat[:, None], rtol=0, atol=1e-15)


def test_a_v_predicting_teacher_gives_the_same_score(teacher: Teacher, draw: Draw) -> None:
    """A network that says v = sqrt(a) eps - sqrt(1 - a) z where the other says eps is the same teacher."""
    want = sds(teacher, draw.z_hat, draw.y_hat, draw.t, draw.eps, OMEGA)
    alpha_bar = teacher.alphas_cumprod[draw.t].repeat(2)[:, None, None, None]
    z_t = teacher.add_noise(draw.z_hat, draw.eps, draw.t)
    # z_t = sqrt(a) z0 + sqrt(1 - a) eps, so v = (eps - sqrt(1 - a) z_t) / sqrt(a).
    convert = teacher.unet.register_forward_hook(lambda _, inputs, output: to_v(output, alpha_bar, z_t))
    teacher.prediction_type = "v_prediction"
    got = sds(teacher, draw.z_hat, draw.y_hat, draw.t, draw.eps, OMEGA)
    convert.remove()
    teacher.prediction_type = "epsilon"
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def to_v(output: object, alpha_bar: Tensor, z_t: Tensor) -> object:
    output.sample = (output.sample - (1 - alpha_bar).sqrt() * z_t.repeat(2, 1, 1, 1)) / alpha_bar.sqrt()  # type: ignore[attr-defined]
    return output
