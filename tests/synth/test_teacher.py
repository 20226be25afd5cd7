"""The teacher against diffusers itself, and the errors of those who have none."""

import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from agreement import assert_agrees
from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from huggingface_hub import errors
from small_datasets import synth_log

from synth.errors import TeacherError
from synth.settings import TeacherSettings
from synth.teacher import devices
from synth.teacher.devices import choose_dtype
from synth.teacher.explain import explain
from synth.teacher.families import FAMILIES
from synth.teacher.teacher import Conditioning, Teacher

__all__ = ["synth_log"]  # a fixture

PROMPTS = ["a red leather sofa in a living room", "a zebra"]


def load(folder: Path | str, **settings: Any) -> Teacher:
    return Teacher.load(TeacherSettings(id=str(folder), **{"device": "cpu", **settings}))


def copy(folder: Path, to: Path) -> Path:
    """A copy whose files may be changed."""
    return Path(shutil.copytree(folder, to))


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(folder: Path | str, **settings: Any) -> str:
    with pytest.raises(TeacherError) as caught:
        load(folder, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# What it computes


def test_a_folder_takes_its_family_s_defaults(tiny_teacher: Teacher) -> None:
    assert tiny_teacher.defaults.model_dump(exclude={"licence"}) == {
        "image_size": 64,
        "num_inference_steps": 25,
        "guidance_scale": 7.5,
        "sampler": "dpm++",
        "edit_guidance_scale": 7.5,
        "edit_learning_rate": 2.0,
    }
    assert (tiny_teacher.vae_scale_factor, tiny_teacher.latent_channels) == (8, 4)
    assert tiny_teacher.family.alphas_cumprod.shape == (1000,)
    assert (tiny_teacher.device.type, tiny_teacher.dtype) == ("cpu", torch.float32)
    assert not any(parameter.requires_grad for parameter in tiny_teacher.unet.parameters())


def test_autocast_leaves_texts_alone(tiny_sd_folder: Path) -> None:
    teachers = [Teacher.load(TeacherSettings(id=str(tiny_sd_folder), device="cpu")) for _ in range(2)]
    with torch.autocast("cpu", torch.bfloat16):
        asked_by_a_training = teachers[0].null.prompt_embeds
    assert torch.equal(asked_by_a_training, teachers[1].null.prompt_embeds)


def test_texts_are_encoded_as_the_pipeline_does(tiny_teacher: Teacher) -> None:
    pipeline = tiny_teacher.pipeline
    with torch.no_grad():
        expected, null = pipeline.encode_prompt(PROMPTS, tiny_teacher.device, 1, True)
    assert_agrees(tiny_teacher.encode_prompt(PROMPTS).prompt_embeds, expected)
    assert_agrees(tiny_teacher.null.prompt_embeds, null[:1])
    assert tiny_teacher.null is tiny_teacher.null


def test_a_prompt_is_never_cut_silently(tiny_teacher: Teacher) -> None:
    tiny_teacher.encode_prompt(["sofa " * 75])
    with pytest.raises(TeacherError, match=r"has 78 tokens and .* reads 77"):
        tiny_teacher.encode_prompt(["a sofa", "sofa " * 76])


def test_latents_are_the_scaled_posterior_mean(tiny_teacher: Teacher) -> None:
    images = noise(2, 3, 72, 104).clamp(-1, 1)
    latents = tiny_teacher.encode(images)
    assert latents.shape == (2, 4, 9, 13)
    with torch.no_grad():
        mean = tiny_teacher.vae.encode(images).latent_dist.mode()
        decoded = tiny_teacher.vae.decode(mean).sample
    assert_agrees(latents, mean * 0.18215)
    assert_agrees(tiny_teacher.decode(latents), decoded)


def test_noise_is_added_as_ddpm_does(tiny_teacher: Teacher) -> None:
    ddpm = DDPMScheduler.from_config(tiny_teacher.pipeline.scheduler.config)
    z, eps, timesteps = noise(3, 4, 8, 8), noise(3, 4, 8, 8, seed=1), torch.tensor([0, 500, 999])
    assert_agrees(tiny_teacher.add_noise(z, eps, timesteps), ddpm.add_noise(z, eps, timesteps), steps=10)


def test_guided_noise_is_the_pipeline_s_formula_in_one_call(tiny_teacher: Teacher) -> None:
    z_t, timesteps = noise(2, 4, 8, 8), torch.tensor([50, 700])
    y, null = tiny_teacher.encode_prompt(PROMPTS), tiny_teacher.null
    with torch.no_grad():
        eps_y = tiny_teacher.unet(z_t, timesteps, y.prompt_embeds).sample
        eps_null = tiny_teacher.unet(z_t, timesteps, null.expand(2).prompt_embeds).sample
    sizes: list[int] = []
    hook = tiny_teacher.unet.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    guided = tiny_teacher.predict_noise(z_t, timesteps, y, 7.5)
    hook.remove()
    assert sizes == [4]
    assert (eps_y - eps_null).abs().max() > 1e-4  # the text tells
    assert_agrees(guided, eps_null + 7.5 * (eps_y - eps_null))
    assert_agrees(tiny_teacher.predict_noise(z_t, timesteps, y, 1.0), eps_y)


def test_guidance_may_differ_between_samples(tiny_teacher: Teacher) -> None:
    z_t, timesteps, y = noise(2, 4, 8, 8), torch.tensor([50, 700]), tiny_teacher.encode_prompt(PROMPTS)
    both = tiny_teacher.predict_noise(z_t, timesteps, y, torch.tensor([1.0, 7.5]))
    assert_agrees(both[:1], tiny_teacher.predict_noise(z_t, timesteps, y, 1.0)[:1])
    assert_agrees(both[1:], tiny_teacher.predict_noise(z_t, timesteps, y, 7.5)[1:])


def test_a_v_prediction_becomes_the_noise_of_ddim(tiny_v_teacher: Teacher) -> None:
    """The clean latents that follow from our noise are those that DDIM computes from the v prediction itself."""
    z_t, y = noise(1, 4, 8, 8), tiny_v_teacher.encode_prompt(PROMPTS[:1])
    for t in (1, 400, 981):
        timesteps = torch.tensor([t])
        eps = tiny_v_teacher.predict_noise(z_t, timesteps, y, 1.0)
        with torch.no_grad():
            v = tiny_v_teacher.unet(z_t, timesteps, y.prompt_embeds).sample
        ddim = DDIMScheduler.from_config(tiny_v_teacher.pipeline.scheduler.config)
        ddim.set_timesteps(50)
        expected = ddim.step(v, t, z_t).pred_original_sample
        alpha_bar = ddim.alphas_cumprod[t]
        ours = (z_t - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()
        # At large t both subtract numbers that are nearly equal, and divide what is left by sqrt(alpha_bar).
        assert_agrees(ours, expected, scale=float(z_t.abs().max() / alpha_bar.sqrt()))
        assert (eps - v).abs().max() > 1e-3


def test_conditionings_join_and_split() -> None:
    whole = Conditioning(noise(3, 77, 16))
    assert torch.equal(Conditioning.cat([whole[:1], whole[1:]]).prompt_embeds, whole.prompt_embeds)
    assert len(whole[:1].expand(5)) == 5


# What is told apart


def test_the_fingerprint_follows_contents_not_the_path(tiny_sd_folder: Path, tmp_path: Path) -> None:
    original = load(tiny_sd_folder).fingerprint
    moved = copy(tiny_sd_folder, tmp_path / "moved")
    (moved / "README.md").write_text("---\nlicense: openrail\n---\n")
    assert load(moved).fingerprint == original
    assert load(moved).defaults.licence == "openrail"
    assert load(moved, dtype="bfloat16").fingerprint != original
    change_json(moved / "scheduler" / "scheduler_config.json", timestep_spacing="trailing")
    assert load(moved).fingerprint != original


def test_the_teacher_s_own_file_sets_its_defaults(
    tiny_sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy(tiny_sd_folder, tmp_path / "small")
    own = {
        "image_size": 128,
        "num_inference_steps": 20,
        "guidance_scale": 3.0,
        "sampler": "own",
        "edit_guidance_scale": 4.0,
        "edit_learning_rate": 1.0,
        "licence": "apache-2.0",
    }
    (folder / "distillery.json").write_text(json.dumps(own))
    monkeypatch.setenv("DISTILLERY_MINIATURE", str(folder))
    teacher = load("miniature")
    assert teacher.defaults.model_dump() == own
    assert teacher.name == "miniature"
    (folder / "distillery.json").write_text(json.dumps({**own, "steps": 3}))
    assert "distillery.json cannot be read (steps: " in refusal("miniature")


@pytest.mark.parametrize("sign", ["name", "scheduler", "guidance embedding"])
def test_few_step_models_paint_but_do_not_teach(tiny_sd_folder: Path, tmp_path: Path, sign: str) -> None:
    folder = copy(tiny_sd_folder, tmp_path / ("sd-turbo" if sign == "name" else "other"))
    if sign == "scheduler":
        index = json.loads((folder / "model_index.json").read_text())
        change_json(folder / "model_index.json", scheduler=[index["scheduler"][0], "LCMScheduler"])
    if sign == "guidance embedding":
        change_json(folder / "unet" / "config.json", time_cond_proj_dim=8)
        config = UNet2DConditionModel.load_config(folder / "unet")
        UNet2DConditionModel.from_config(config).save_pretrained(folder / "unet")
    teacher = load(folder)
    assert (teacher.defaults.num_inference_steps, teacher.defaults.guidance_scale) == (4, 1.0)
    with pytest.raises(TeacherError, match="cannot serve as a scorer"):
        teacher.require_scorer()
    with pytest.raises(TeacherError, match="cannot serve as a scorer"):
        teacher.predict_noise(noise(1, 4, 8, 8), torch.tensor([9]), teacher.encode_prompt(["a sofa"]), 7.5)


def test_an_ordinary_model_may_teach(tiny_teacher: Teacher) -> None:
    tiny_teacher.require_scorer()


def test_a_hub_id_takes_the_same_way(tiny_sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the Hub's cache, since tests ask no network: a snapshot of one commit, and the branch that names it."""
    repository = tmp_path / "models--someone--tiny-sd"
    commit = "0123456789abcdef0123456789abcdef01234567"
    copy(tiny_sd_folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    teacher = load("someone/tiny-sd")
    assert (teacher.name, teacher.fingerprint) == ("someone/tiny-sd", load(tiny_sd_folder).fingerprint)
    assert load("someone/tiny-sd", revision=commit).fingerprint == teacher.fingerprint
    assert "cannot be reached" in refusal("someone/tiny-sd", revision="v2")


# What is refused


def test_a_model_that_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the Hub cannot be reached" in refusal("nobody/has-this-model")
    assert "neither a folder nor a Hub id" in refusal(tmp_path / "not" / "there")
    assert "no model_index.json" in refusal(tmp_path)
    monkeypatch.setenv("DISTILLERY_MINIATURE", str(tmp_path / "gone"))
    assert "train them with synth/miniature/train.py" in refusal("miniature")


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        (errors.GatedRepoError, "accept its licence at https://huggingface.co/owner/model"),
        (errors.RepositoryNotFoundError, "no model 'owner/model'"),
        (errors.RevisionNotFoundError, "check teacher.revision"),
    ],
)
def test_what_the_hub_answers_is_explained(kind: type[errors.HfHubHTTPError], advice: str) -> None:
    response = httpx.Response(403, request=httpx.Request("GET", "https://huggingface.co/owner/model"))
    told = str(explain("owner/model", kind("403\nForbidden", response=response)))
    assert advice in told and "\n" not in told


def test_other_failures_are_explained_in_one_line() -> None:
    assert "cannot be reached" in str(explain("owner/model", httpx.ConnectError("no route")))
    assert str(explain("x/y", ValueError("one\ntwo"))).endswith("pipeline: one two")
    assert str(explain("x/y", ValueError())).endswith("pipeline: ValueError")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_are_not_safetensors(tiny_sd_folder: Path, tmp_path: Path, part: str) -> None:
    folder = copy(tiny_sd_folder, tmp_path / "pickled")
    for weights in (folder / part).glob("*.safetensors"):
        weights.rename(weights.with_suffix(".bin"))
    assert f"no safetensors in {part}/" in refusal(folder)


def test_models_that_do_something_else(tiny_sd_folder: Path, tmp_path: Path) -> None:
    folder = copy(tiny_sd_folder, tmp_path / "other")
    change_json(folder / "unet" / "config.json", in_channels=9)
    assert "takes 9 channels and its VAE makes 4" in refusal(folder)
    change_json(folder / "unet" / "config.json", in_channels=4)
    change_json(folder / "scheduler" / "scheduler_config.json", prediction_type="sample")
    assert "predicts 'sample'" in refusal(folder)
    change_json(folder / "model_index.json", _class_name="StableDiffusionInpaintPipeline")
    assert "is a StableDiffusionInpaintPipeline" in refusal(folder)
    (folder / "model_index.json").write_text("{")
    assert "model_index.json cannot be read" in refusal(folder)


def test_a_full_size_model_on_a_cpu_is_refused(tiny_sd_folder: Path, tmp_path: Path) -> None:
    """Stable Diffusion 1.5's own U-Net config, with no weights beside it: so none were read."""
    folder = copy(tiny_sd_folder, tmp_path / "full")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    change_json(
        folder / "unet" / "config.json",
        block_out_channels=[320, 640, 1280, 1280],
        down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        layers_per_block=2,
        cross_attention_dim=768,
        attention_head_dim=8,
        norm_num_groups=32,
        sample_size=64,
    )
    told = refusal(folder)
    assert "full-size" in told and "teacher.allow_cpu=true" in told and "miniature" in told
    assert "no safetensors in unet/" in refusal(folder, allow_cpu=True)


@pytest.mark.parametrize(
    ("pipeline", "bfloat16", "wanted"),
    [
        ("StableDiffusionPipeline", True, torch.float16),
        ("StableDiffusionXLPipeline", True, torch.bfloat16),
        ("StableDiffusion3Pipeline", True, torch.bfloat16),
        ("StableDiffusion3Pipeline", False, torch.float16),
    ],
)
def test_half_precision_follows_family_and_card(
    monkeypatch: pytest.MonkeyPatch, synth_log: pytest.LogCaptureFixture, pipeline: str, bfloat16: bool, wanted: Any
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bfloat16)
    cuda, family = torch.device("cuda", 0), FAMILIES[pipeline]
    assert choose_dtype(TeacherSettings(), family, True, cuda) == wanted
    assert bool(synth_log.messages) is not bfloat16
    assert all("does not multiply bfloat16" in message for message in synth_log.messages)
    assert choose_dtype(TeacherSettings(), family, False, cuda) == torch.float32
    assert choose_dtype(TeacherSettings(), family, True, torch.device("cpu")) == torch.float32
    assert choose_dtype(TeacherSettings(dtype="bfloat16"), family, False, cuda) == torch.bfloat16


def test_devices_that_are_not_there(tiny_sd_folder: Path) -> None:
    assert "no device 'gpu'" in refusal(tiny_sd_folder, device="gpu")
    if not torch.cuda.is_available():
        assert "PyTorch sees no GPU" in refusal(tiny_sd_folder, device="cuda")


def test_a_build_without_cuda_beside_a_gpu_is_named(
    tiny_sd_folder: Path, monkeypatch: pytest.MonkeyPatch, synth_log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "has_nvidia_driver", lambda: True)
    monkeypatch.setattr(devices, "_said", set())
    named = f"this machine has NVIDIA's driver, and torch {torch.__version__} is built without CUDA"
    assert named in refusal(tiny_sd_folder, device="cuda:0")
    assert [devices.choose_device("auto").type, devices.choose_device("auto").type] == ["cpu", "cpu"]
    assert len(synth_log.messages) == 1 and synth_log.messages[0].startswith(f"the CPU computes: {named}")
    assert devices.choose_device("cpu").type == "cpu", "who asks for it is told nothing"
    monkeypatch.setattr("synth.teacher.teacher._FULL_SIZE", 10)
    told = refusal(tiny_sd_folder, device="cpu")
    assert named in told and "or set teacher.allow_cpu=true to wait for hours" in told
    monkeypatch.setattr(devices, "has_nvidia_driver", lambda: False)
    assert "there is no GPU: set teacher.allow_cpu" in refusal(tiny_sd_folder, device="cpu")


def test_the_tiny_folder_is_plain_diffusers(tiny_sd_folder: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd_folder, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a red sofa", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
    assert image.size == (64, 64)
