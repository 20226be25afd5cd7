"""Each family against its own pipeline: the texts, the sizes, the latents, and who may stand for what."""

from pathlib import Path
from typing import Any

import pytest
import torch
from agreement import assert_agrees
from diffusers import AutoencoderTiny, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from distill.settings import TrainingSettings
from distill.students import UNetStudent
from synth.errors import TeacherError
from synth.settings import TeacherSettings
from synth.teacher.families import FAMILIES, Conditioning, StableDiffusion3
from synth.teacher.hub import TeacherDefaults
from synth.teacher.teacher import Teacher

TEACHERS = ["tiny_teacher", "tiny_v_teacher", "tiny_xl_teacher", "tiny_3_teacher"]
PROMPTS = ["a red leather sofa in a living room", "", "a zebra"]


@pytest.fixture(params=TEACHERS)
def teacher(request: pytest.FixtureRequest) -> Teacher:
    found: Teacher = request.getfixturevalue(request.param)
    return found


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def copied(teacher: Teacher, **parts: Any) -> Teacher:
    """A teacher that shares all networks but some."""
    pipeline = type(teacher.pipeline)(**{**teacher.pipeline.components, **parts})
    return Teacher(pipeline, teacher.name, "another", teacher.defaults)


# Texts


@pytest.mark.parametrize("tiny", ["tiny_xl_teacher", "tiny_3_teacher"])
def test_texts_are_encoded_as_the_pipeline_does(tiny: str, request: pytest.FixtureRequest) -> None:
    teacher: Teacher = request.getfixturevalue(tiny)
    others = {"prompt_2": None} if tiny == "tiny_xl_teacher" else {"prompt_2": None, "prompt_3": None}
    with torch.no_grad():
        embeds, null, pooled, null_pooled = teacher.pipeline.encode_prompt(PROMPTS, **others)
    got = teacher.encode_prompt(PROMPTS)
    assert got.pooled_prompt_embeds is not None and teacher.null.pooled_prompt_embeds is not None
    for index in (0, 2):
        assert_agrees(got.prompt_embeds[index], embeds[index])
        assert_agrees(got.pooled_prompt_embeds[index], pooled[index])
    assert_agrees(teacher.null.prompt_embeds, null[:1])
    assert_agrees(teacher.null.pooled_prompt_embeds, null_pooled[:1])


def test_an_empty_prompt_is_the_null_text(teacher: Teacher) -> None:
    empty = teacher.encode_prompt(PROMPTS)[1:2]
    assert_agrees(empty.prompt_embeds, teacher.null.prompt_embeds)
    if empty.pooled_prompt_embeds is not None:
        assert teacher.null.pooled_prompt_embeds is not None
        assert_agrees(empty.pooled_prompt_embeds, teacher.null.pooled_prompt_embeds)


def test_xl_s_null_text_is_zeros_only_where_trained_so(tiny_xl_teacher: Teacher) -> None:
    """XL's null text is zeros only in a model that was trained so."""
    assert not tiny_xl_teacher.null.prompt_embeds.any()
    plain = copied(tiny_xl_teacher)
    plain.pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    assert plain.null.prompt_embeds.any()


def test_any_text_encoder_may_refuse_a_prompt(
    tiny_xl_teacher: Teacher, tiny_3_teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first text encoder that cannot read a prompt refuses it."""
    long = "a red leather sofa in a living room with grey walls"
    for teacher in (tiny_xl_teacher, tiny_3_teacher):
        teacher.check_prompts([long, "sofa " * 75])
        with pytest.raises(TeacherError, match=r"has 78 tokens and .* reads 77"):
            teacher.encode_prompt(["sofa " * 76])
    monkeypatch.setattr(tiny_xl_teacher.pipeline.tokenizer_2, "model_max_length", 9)
    with pytest.raises(TeacherError, match=r"has \d+ tokens and .* reads 9: shorten it"):
        tiny_xl_teacher.check_prompts([long])
    monkeypatch.setattr(StableDiffusion3, "_T5_TOKENS", 8)
    with pytest.raises(TeacherError, match=r"has \d+ tokens and .* reads 8: shorten it"):
        tiny_3_teacher.check_prompts([long])
    without_t5 = copied(tiny_3_teacher, text_encoder_3=None, tokenizer_3=None)
    without_t5.check_prompts([long])


def test_conditionings_join_split_and_spread() -> None:
    whole = Conditioning(noise(3, 77, 16), noise(3, 8), noise(3, 6))
    again = Conditioning.cat([whole[:1], whole[torch.tensor([1, 2])]])
    assert len(again) == 3
    spread = whole[:1].expand(5)
    assert len(spread) == 5
    for name in ("prompt_embeds", "pooled_prompt_embeds", "time_ids"):
        part = getattr(whole, name)
        assert torch.equal(getattr(again, name), part)
        assert torch.equal(getattr(spread, name), part[[0, 0, 0, 0, 0]])
    plain = Conditioning(noise(3, 77, 16))
    assert Conditioning.cat([plain, plain[:1]]).pooled_prompt_embeds is None
    assert plain.expand(3).time_ids is plain[1:].time_ids is None


# Sizes


def added_conditions(teacher: Teacher, y: Conditioning, height: int, width: int) -> dict[str, Tensor]:
    """What XL's U-Net is told beside the text in one guided prediction."""
    told: list[dict[str, Tensor]] = []
    hook = teacher.network.register_forward_pre_hook(
        lambda _, inputs, named: told.append(named["added_cond_kwargs"]), with_kwargs=True
    )
    teacher.predict_noise(noise(len(y), 4, height, width), torch.full((len(y),), 500), y, 7.5)
    hook.remove()
    (only,) = told
    return only


def test_xl_reads_the_latents_size_or_a_given_one(tiny_xl_teacher: Teacher) -> None:
    """XL reads the latents' own size, or the one that it is given."""
    y = tiny_xl_teacher.encode_prompt(["a sofa", "a zebra"])
    told = added_conditions(tiny_xl_teacher, y, 9, 13)
    assert told["time_ids"].tolist() == [[72, 104, 0, 0, 72, 104]] * 4
    assert not told["text_embeds"][:2].any() and told["text_embeds"][2:].any()
    sizes = torch.tensor([[64.0, 64, 0, 0, 64, 64], [128, 128, 4, 4, 64, 64]])
    y = Conditioning(y.prompt_embeds, y.pooled_prompt_embeds, sizes)
    assert torch.equal(added_conditions(tiny_xl_teacher, y, 8, 8)["time_ids"], sizes.repeat(2, 1))


def test_a_transformer_takes_only_whole_patches(tiny_3_teacher: Teacher) -> None:
    assert tiny_3_teacher.size_multiple == 16
    y, t = tiny_3_teacher.encode_prompt(["a sofa"]), torch.tensor([500])
    assert tiny_3_teacher.predict_noise(noise(1, 6, 6, 10), t, y, 2.0).shape == (1, 6, 6, 10)
    with pytest.raises(TeacherError, match="multiples of 16 pixels, and these are 72 x 64"):
        tiny_3_teacher.predict_noise(noise(1, 6, 8, 9), t, y, 2.0)


# Noise and latents


def test_flow_matching_noise_is_the_scheduler_s(tiny_3_teacher: Teacher) -> None:
    """Flow matching's noise is the scheduler's, before any shift."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    z, eps, timesteps = noise(3, 6, 8, 8), noise(3, 6, 8, 8, seed=1), torch.tensor([0, 500, 999])
    expected = scheduler.scale_noise(z, (timesteps + 1).float(), eps)
    assert_agrees(tiny_3_teacher.add_noise(z, eps, timesteps), expected, steps=10)


def test_a_velocity_s_noise_leads_back_to_the_latents(tiny_3_teacher: Teacher) -> None:
    """z = (z_t - sigma eps) / (1 - sigma) with our eps is the z = z_t - sigma v of the sampler."""
    z_t, y = noise(1, 6, 8, 8), tiny_3_teacher.encode_prompt(["a red sofa"])
    for t in (0, 400, 900):
        sigma = (t + 1) / 1000
        eps = tiny_3_teacher.predict_noise(z_t, torch.tensor([t]), y, 1.0)
        with torch.no_grad():
            v = tiny_3_teacher.network(
                z_t,
                timestep=torch.tensor([1000 * sigma]),
                encoder_hidden_states=y.prompt_embeds,
                pooled_projections=y.pooled_prompt_embeds,
            ).sample
        assert_agrees((z_t - sigma * eps) / (1 - sigma), z_t - sigma * v, scale=float(z_t.abs().max() / (1 - sigma)))


def test_latents_have_the_pipeline_s_scale_and_shift(teacher: Teacher) -> None:
    images = noise(2, 3, 64, 96).clamp(-1, 1)
    latents = teacher.encode(images)
    assert latents.shape == (2, teacher.latent_channels, 8, 12)
    config = teacher.vae.config
    with torch.no_grad():
        mean = teacher.vae.encode(images).latent_dist.mode()
        plain = teacher.vae.decode(mean).sample
    assert_agrees(latents, (mean - (config.shift_factor or 0)) * config.scaling_factor)
    assert_agrees(teacher.decode(latents), plain)


def test_a_tiny_autoencoder_stands_in_for_the_vae(
    tiny_sd_folder: Path, tiny_teacher: Teacher, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    )
    copied(tiny_teacher, vae=vae, requires_safety_checker=False).pipeline.save_pretrained(tmp_path / "taesd")
    teacher = Teacher.load(TeacherSettings(id=str(tmp_path / "taesd"), device="cpu"))
    assert isinstance(teacher.vae, AutoencoderTiny) and teacher.defaults.image_size == 64
    assert teacher.fingerprint != tiny_teacher.fingerprint
    images = noise(2, 3, 64, 96).clamp(-1, 1)
    latents = teacher.encode(images)
    with torch.no_grad():
        assert_agrees(latents, vae.eval().encode(images).latents)
        assert_agrees(teacher.decode(latents), vae.decode(latents).sample)
    assert latents.shape == (2, 4, 8, 12)


def test_in_float16_only_the_vae_stays_in_float32(tiny_xl_folder: Path) -> None:
    teacher = Teacher.load(TeacherSettings(id=str(tiny_xl_folder), device="cpu", dtype="float16"))
    assert (teacher.dtype, teacher.vae.dtype, teacher.pipeline.vae.dtype) == (
        torch.float16,
        torch.float32,
        torch.float16,
    )
    assert teacher.encode(noise(1, 3, 64, 64)).dtype == torch.float32


# Defaults, absent parts, refusals


def test_each_family_brings_its_defaults(teacher: Teacher) -> None:
    expected = {
        "StableDiffusionPipeline": (25, 7.5, "dpm++"),
        "StableDiffusionXLPipeline": (50, 5.0, "own"),
        "StableDiffusion3Pipeline": (28, 7.0, "own"),
    }[type(teacher.pipeline).__name__]
    assert teacher.defaults == TeacherDefaults(
        image_size=64,
        num_inference_steps=expected[0],
        guidance_scale=expected[1],
        sampler=expected[2],
        licence=teacher.defaults.licence,
    )
    assert type(teacher.family) is FAMILIES[type(teacher.pipeline).__name__]
    assert not any(weight.requires_grad for weight in teacher.network.parameters())


def test_stable_diffusion_3_does_without_t5(tiny_3_teacher: Teacher, tiny_3_folder: Path, tmp_path: Path) -> None:
    saved = copied(tiny_3_teacher, text_encoder_3=None, tokenizer_3=None)
    saved.pipeline.save_pretrained(tmp_path / "saved")
    teacher = Teacher.load(TeacherSettings(id=str(tmp_path / "saved"), device="cpu"))
    assert teacher.pipeline.text_encoder_3 is None
    y = teacher.encode_prompt(["a red sofa"])
    assert torch.equal(y.prompt_embeds[:, :77], tiny_3_teacher.encode_prompt(["a red sofa"]).prompt_embeds[:, :77])
    assert not y.prompt_embeds[:, 77:].any()
    assert teacher.fingerprint != tiny_3_teacher.fingerprint


@pytest.mark.parametrize(
    ("tiny", "told"),
    [("tiny_3_teacher", "has no U-Net .its network is a SD3Transformer2DModel"), ("tiny_xl_teacher", "pooled text")],
)
def test_networks_that_a_student_cannot_start_from(tiny: str, told: str, request: pytest.FixtureRequest) -> None:
    with pytest.raises(TeacherError, match=f"{told}.*training.student=compact"):
        UNetStudent.from_teacher(request.getfixturevalue(tiny), {"red": "a red sofa"}, TrainingSettings())
