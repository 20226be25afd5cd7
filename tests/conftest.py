"""Small real parts: pipelines of Stable Diffusion's own classes, made on the spot with random weights."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores: threads of their own would wait for each other's. Before anything imports torch.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# What the tests compare to the bit is a CPU's; `make gpu` is for a card. CUDA_VISIBLE_DEVICES=0 runs them on one.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub: no test asks the network
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# Prefect reads its settings when it is imported, which some test does before a command prepares this process: the
# secret of private servers must stand before.
os.environ["PREFECT_SERVER_API_AUTH_STRING"] = os.environ["PREFECT_API_AUTH_STRING"] = "distillery:of the tests"
os.environ["PREFECT_LOGGING_LEVEL"] = "CRITICAL"  # as the command has it: the project's lines go to the terminal

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tiny_clip import WORDS, tiny_clip_config, tiny_tokenizer
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from synth.settings import TeacherSettings
from synth.teacher.teacher import Teacher

if TYPE_CHECKING:
    from workplace import Workplace

SD_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Divide the tests among the workers of `pytest -n 2 --dist loadgroup`.

    A file's tests stay together, for what its fixtures make. All tests with a Prefect server go to one worker, which
    starts the server and makes the finished run once.
    """
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        with_server = "prefect_server" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("prefect" if with_server else item.path.name))


def pytest_collection_finish() -> None:
    """Take what all modules hold out of the garbage collector's sight: each training of a test calls it, and looking
    at a million objects took half of the time of some."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command says yes for its own process, which is here that of all tests."""
    monkeypatch.delenv("DISTILLERY_TRUST", raising=False)


@pytest.fixture(scope="session")
def tiny_sd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion 1.5 in small: 64 x 64 images, 4 x 8 x 8 latents, PNDM, noise prediction, random weights."""
    scheduler = PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, **SD_SCHEDULE)
    return save_tiny_pipeline(tmp_path_factory.mktemp("tiny-sd"), scheduler)


@pytest.fixture(scope="session")
def tiny_v_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion 2.1 in small: the same networks under a v-prediction schedule."""
    scheduler = DDIMScheduler(
        prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, **SD_SCHEDULE
    )
    return save_tiny_pipeline(tmp_path_factory.mktemp("tiny-v"), scheduler)


@pytest.fixture(scope="session")
def tiny_teacher(tiny_sd_folder: Path) -> Teacher:
    return Teacher.load(TeacherSettings(id=str(tiny_sd_folder), device="cpu"))


@pytest.fixture(scope="session")
def tiny_v_teacher(tiny_v_folder: Path) -> Teacher:
    return Teacher.load(TeacherSettings(id=str(tiny_v_folder), device="cpu"))


def save_tiny_pipeline(folder: Path, scheduler: Any) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny_tokenizer()
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 16, 16),
            latent_channels=4,
            norm_num_groups=4,
            sample_size=64,
            scaling_factor=0.18215,
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(16, 32),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=16,
            attention_head_dim=2,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=77,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_xl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion XL in small: two text encoders, a pooled text and sizes; 64 x 64 images, 4 x 8 x 8 latents."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny_tokenizer()
        pipeline = StableDiffusionXLPipeline(
            vae=tiny_vae(latent_channels=4, scaling_factor=0.13025),
            text_encoder=CLIPTextModel(tiny_clip_config(tokenizer)),
            text_encoder_2=CLIPTextModelWithProjection(tiny_clip_config(tokenizer)),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=UNet2DConditionModel(
                sample_size=8,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                block_out_channels=(16, 32),
                layers_per_block=1,
                norm_num_groups=4,
                cross_attention_dim=32,
                attention_head_dim=2,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + 16,
            ),
            scheduler=EulerDiscreteScheduler(timestep_spacing="leading", **SD_SCHEDULE),
            force_zeros_for_empty_prompt=True,
            add_watermarker=False,
        )
    folder = tmp_path_factory.mktemp("tiny-xl")
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion 3 in small: a transformer under flow matching, three text encoders, latents with a shift."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = tiny_tokenizer()
        pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"\u2581{word}", -3.0) for word in WORDS.split())]
        t5_tokenizer = T5TokenizerFast(vocab=pieces, extra_ids=0)
        pipeline = StableDiffusion3Pipeline(
            transformer=SD3Transformer2DModel(
                sample_size=8,
                patch_size=2,
                in_channels=6,
                out_channels=6,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=32,
                caption_projection_dim=16,
                pooled_projection_dim=32,
                pos_embed_max_size=16,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=tiny_vae(
                latent_channels=6,
                scaling_factor=1.5305,
                shift_factor=0.0609,
                use_quant_conv=False,
                use_post_quant_conv=False,
            ),
            text_encoder=CLIPTextModelWithProjection(tiny_clip_config(tokenizer)),
            tokenizer=tokenizer,
            text_encoder_2=CLIPTextModelWithProjection(tiny_clip_config(tokenizer)),
            tokenizer_2=tokenizer,
            text_encoder_3=T5EncoderModel(
                T5Config(vocab_size=len(t5_tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
            ),
            tokenizer_3=t5_tokenizer,
        )
    folder = tmp_path_factory.mktemp("tiny-3")
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_xl_teacher(tiny_xl_folder: Path) -> Teacher:
    return Teacher.load(TeacherSettings(id=str(tiny_xl_folder), device="cpu"))


@pytest.fixture(scope="session")
def tiny_3_teacher(tiny_3_folder: Path) -> Teacher:
    return Teacher.load(TeacherSettings(id=str(tiny_3_folder), device="cpu"))


def tiny_vae(**config: Any) -> AutoencoderKL:
    """64 x 64 images to 8 x 8 latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=4,
        sample_size=64,
        **config,
    )


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def finished(prefect_server: None, tiny_sd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from small_runs import run_command

    out = tmp_path_factory.mktemp("runs") / "small"
    result = run_command(tiny_sd_folder, out)
    assert result.exit_code == 0, result.output
    assert f"report {out / 'report.html'}\nmodel  {out / 'model.onnx'}\n" in result.stdout
    return out


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Workplace]":
    """Postgres, a Prefect server on it, and the deployments; for the slow tests."""
    from workplace import Postgres, Workplace, postgres_programs

    programs = postgres_programs()
    if programs is None:
        pytest.skip("no Postgres here: `apt-get install postgresql`, or put its initdb on the PATH")
    database = Postgres(programs)
    place = Workplace(tmp_path_factory.mktemp("workplace"), database)
    yield place
    place.close()
    database.remove()
