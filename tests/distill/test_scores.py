"""The scores, against a transcription of the paper's formulas that shares no line with the code."""

from copy import deepcopy
from dataclasses import dataclass

import pytest
import torch
from agreement import assert_agrees
from torch import Tensor, nn

from distill.scores import Sources, dds, identity_loss, sds, shared_source_dds, surrogate_loss
from synth.teacher.teacher import Conditioning, Teacher

NUM_IMAGES, NUM_EDITS, OMEGA = 2, 3, 7.5


@dataclass
class Draw:
    z: Tensor  # (B, K, C, h, w)
    z_hat: Tensor  # (B, C, h, w)
    y: Conditioning  # of B*K
    y_hat: Conditioning  # of B
    t: Tensor  # (B,)
    eps: Tensor  # (B, C, h, w)


FAMILIES = {"epsilon": "tiny_teacher", "v": "tiny_v_teacher", "xl": "tiny_xl_teacher", "flow": "tiny_3_teacher"}


@pytest.fixture(scope="module", params=FAMILIES)
def teacher(request: pytest.FixtureRequest) -> Teacher:
    """A tiny teacher of each family in float64, so that an equality is one of formulas and not of luck."""
    tiny: Teacher = request.getfixturevalue(FAMILIES[request.param])
    pipeline = deepcopy(tiny.pipeline)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.double()
    return Teacher(pipeline, request.param, tiny.fingerprint, tiny.defaults)


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


def written_out(teacher: Teacher, z: Tensor, y: Conditioning, t: int, eps: Tensor, omega: float) -> Tensor:
    """eps^omega(z_t, y, t) of one sample, as the papers write it: one formula a line, one network call a term."""
    null = teacher.encode_prompt([""])
    if teacher.name == "flow":
        sigma = (t + 1) / 1000
        z_t = (1 - sigma) * z + sigma * eps
        v_null, v_y = (velocity(teacher, z_t, text, sigma) for text in (null, y))
        eps_null, eps_y = z_t + (1 - sigma) * v_null, z_t + (1 - sigma) * v_y
        return eps_null + omega * (eps_y - eps_null)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = teacher.pipeline.scheduler.alphas_cumprod[t].double()
    assert alpha_bar == pytest.approx(float(torch.cumprod(1 - betas, 0)[t]), rel=1e-4)
    z_t = alpha_bar**0.5 * z + (1 - alpha_bar) ** 0.5 * eps
    eps_null, eps_y = (unet(teacher, z_t, text, t) for text in (null, y))
    if teacher.name == "v":
        eps_null, eps_y = (alpha_bar**0.5 * v + (1 - alpha_bar) ** 0.5 * z_t for v in (eps_null, eps_y))
    return eps_null + omega * (eps_y - eps_null)


def of_all_pairs(teacher: Teacher, draw: Draw, z: Tensor | None = None) -> Tensor:
    """All edits of all images in one call, (B, K, C, h, w)."""
    z = draw.z if z is None else z
    sources = Sources(draw.z_hat, draw.y_hat, draw.t, draw.eps)
    images = [image for image in range(NUM_IMAGES) for _ in range(NUM_EDITS)]
    return shared_source_dds(teacher, z.flatten(0, 1), draw.y, sources, images, OMEGA).reshape(z.shape)


def unet(teacher: Teacher, z_t: Tensor, text: Conditioning, t: int) -> Tensor:
    added = None
    if teacher.name == "xl":
        height, width = 8 * z_t.shape[1], 8 * z_t.shape[2]
        sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float64)
        added = {"text_embeds": text.pooled_prompt_embeds, "time_ids": sizes}
    output: Tensor = teacher.pipeline.unet(
        z_t[None], torch.tensor(t), encoder_hidden_states=text.prompt_embeds, added_cond_kwargs=added
    ).sample
    return output[0]


def velocity(teacher: Teacher, z_t: Tensor, text: Conditioning, sigma: float) -> Tensor:
    output: Tensor = teacher.pipeline.transformer(
        hidden_states=z_t[None],
        timestep=torch.tensor([1000 * sigma]),
        encoder_hidden_states=text.prompt_embeds,
        pooled_projections=text.pooled_prompt_embeds,
    ).sample
    return output[0]


def dds_written_out(teacher: Teacher, draw: Draw, image: int, edit: int, omega: float) -> Tensor:
    t, eps, place = int(draw.t[image]), draw.eps[image], image * NUM_EDITS + edit
    edited = written_out(teacher, draw.z[image, edit], draw.y[place : place + 1], t, eps, omega)
    return edited - written_out(teacher, draw.z_hat[image], draw.y_hat[image : image + 1], t, eps, omega)


@pytest.mark.parametrize("omega", [1.0, OMEGA])
def test_sds_is_the_formula(teacher: Teacher, draw: Draw, omega: float) -> None:
    got = sds(teacher, draw.z_hat, draw.y_hat, draw.t, draw.eps, omega)
    for image in range(NUM_IMAGES):
        y_hat, eps = draw.y_hat[image : image + 1], draw.eps[image]
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


def test_sharing_the_source_is_the_plain_way(teacher: Teacher) -> None:
    whole_patches = teacher.size_multiple > teacher.vae_scale_factor
    for size in [(6, 10)] if whole_patches else [(6, 10), (9, 13)]:
        draw = make_draw(teacher, size)
        got = of_all_pairs(teacher, draw)
        assert got.shape == draw.z.shape
        for image in range(NUM_IMAGES):
            for edit in range(NUM_EDITS):
                want = dds_written_out(teacher, draw, image, edit, OMEGA)
                torch.testing.assert_close(got[image, edit], want, rtol=1e-9, atol=1e-9)


def test_sharing_the_source_takes_2_plus_2k_passes_an_image(teacher: Teacher, draw: Draw) -> None:
    """All in one call of the network."""
    sizes: list[int] = []
    hook = teacher.network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    of_all_pairs(teacher, draw)
    hook.remove()
    assert sizes == [NUM_IMAGES * (2 + 2 * NUM_EDITS)]


def test_pairs_in_any_portions_share_their_images_source(teacher: Teacher, draw: Draw) -> None:
    """In portions that cut through images: the source branch runs with the first pair of its image, and once."""
    sizes: list[int] = []
    hook = teacher.network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    pairs = [(image, edit) for image in range(NUM_IMAGES) for edit in range(NUM_EDITS)]
    sources = Sources(draw.z_hat, draw.y_hat, draw.t, draw.eps)
    got, seen, expected = [], set(), []
    for start in range(0, len(pairs), 2):
        images, edits = zip(*pairs[start : start + 2], strict=True)
        z, y = draw.z[list(images), list(edits)], draw.y[torch.arange(start, start + len(images))]
        got.append(shared_source_dds(teacher, z, y, sources, images, OMEGA))
        expected.append(2 * len(images) + 2 * len(set(images) - seen))
        seen |= set(images)
    hook.remove()
    assert sizes == expected and sum(sizes) == NUM_IMAGES * (2 + 2 * NUM_EDITS)
    for (image, edit), gradient in zip(pairs, torch.cat(got), strict=True):
        want = dds_written_out(teacher, draw, image, edit, OMEGA)
        torch.testing.assert_close(gradient, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("tiny", FAMILIES.values())
def test_dds_of_equal_branches_is_zero(tiny: str, request: pytest.FixtureRequest) -> None:
    """In the teacher's own precision: the biases of equal branches cancel to rounding."""
    teacher: Teacher = request.getfixturevalue(tiny)
    draw = make_draw(teacher)
    z_hat, eps = draw.z_hat.float(), draw.eps.float()
    gradient = dds(teacher, z_hat, z_hat.clone(), draw.y_hat, draw.y_hat, draw.t, eps, OMEGA)
    cancelled = sds(teacher, z_hat, draw.y_hat, draw.t, eps, OMEGA)
    assert cancelled.abs().max() > 0.1
    # To the bit where a batch's rows are computed alike, which is the processor's business.
    assert_agrees(gradient, torch.zeros_like(gradient), scale=float(cancelled.abs().max()))


def test_the_surrogates_gradient_is_the_score(teacher: Teacher, draw: Draw) -> None:
    """The network's own Jacobian is left out."""
    z = draw.z.clone().requires_grad_()
    gradient = of_all_pairs(teacher, draw, z)
    assert not gradient.requires_grad
    surrogate_loss(z, gradient).backward()
    assert z.grad is not None and torch.equal(z.grad, gradient)


def test_the_identity_losss_gradient_is_the_supplements(draw: Draw) -> None:
    z = draw.z.clone().requires_grad_()
    identity_loss(z, draw.z_hat[:, None]).backward()
    torch.testing.assert_close(z.grad, draw.z - draw.z_hat[:, None], rtol=0, atol=1e-15)
