"""The settings of this package. No torch here: a recipe is read before anything heavy is imported."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from distill.presets import PRESETS
from synth.settings import Seed, Settings

Split = Literal["development", "test", "shifted"]
"""The splits of the drawn world."""


ROUNDING_KEYS = {
    *("preset", "micro_batch_size", "gradient_checkpointing", "checkpoint_every", "checkpoint_minutes"),
    *("keep_checkpoints", "tracker"),
}
"""Keys of TrainingSettings that change a training by no more than rounding."""

SCHEDULE_KEYS = ("warmup_steps", "guidance_warmup_steps", "lambda_id_steps", "learning_rate_steps")
"""Keys of TrainingSettings that are lengths in steps: those of its schedules."""


NUM_SAMPLES = 4
"""Images in a sample grid."""


class TrainingSettings(Settings):
    """How a student is trained.

    `preset` picks the values, and any other key overrides the preset's. The defaults below are the published ones
    (supplement, section B), which is what the preset "paper" stands for.
    """

    preset: Literal["short", "paper", "compact"] = "paper"
    """The values to start from: `paper` for a `unet` student of Stable Diffusion, `compact` for a compact one,
    `short` for the miniature (default: the one for the recipe's teacher and student). A table named after a preset,
    such as `[training.short]`, overrides that preset alone."""
    student: Literal["unet", "compact"] = "unet"
    """`unet` is the paper's: the teacher's own U-Net, trained for another task. `compact` is a small convolutional
    network for phones, browsers and CPUs, and for teachers without such a U-Net (Stable Diffusion XL and 3)."""
    lora_rank: Annotated[int, Field(ge=0, le=4096)] = 0
    """For a `unet` student: 0 trains all of its weights; another number trains LoRA of this rank, in less memory."""
    steps: Annotated[int, Field(gt=0, le=100_000_000)] = 125_000
    """Steps of the optimizer."""
    batch_size: Annotated[int, Field(gt=0, le=65_536)] = 2
    """Images a step; each is taken through `edits_per_image` edits."""
    edits_per_image: Annotated[int, Field(gt=0, le=65_536)] | Literal["all"] = "all"
    """Edits that an image is taken through in a step: `all`, as published, or a number, if the recipe has more. They
    take turns, in an order that is drawn anew in each step. Fewer edits make a step shorter and its gradient
    noisier; an edit then wants more steps."""
    micro_batch_size: Annotated[int, Field(gt=0, le=65_536)] | None = None
    """Pairs of an image and an edit that are held in memory at once (default: all of a step's, images times edits).
    Fewer need less memory, are slower, and train the same. Where a GPU's memory is too small, the number is
    halved once, and the log says so."""
    learning_rate: Annotated[float, Field(gt=0, le=1e38)] = 1e-5
    """Adam's."""
    learning_rate_end: Annotated[float, Field(gt=0, le=1e38)] = 1e-5
    """Its value after `learning_rate_steps`; no effect without them. A rate that suits the first hundreds of steps
    may derail a student after a thousand."""
    learning_rate_steps: Annotated[int, Field(ge=0, le=100_000_000)] = 0
    """Length of the cosine from learning_rate to learning_rate_end; 0 keeps learning_rate, as published."""
    max_grad_norm: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    """A longer gradient is scaled down to this norm; 0 clips nothing, as published."""
    warmup_steps: Annotated[int, Field(ge=0, le=100_000_000)] = 10_000
    """Length of the learning rate's linear warm-up."""
    guidance_start: Annotated[float, Field(ge=1, le=1000)] = 1.0
    """omega, the guidance scale of the score, at the first step."""
    guidance_end: Annotated[float, Field(ge=1, le=1000)] = 25.0
    """omega after its warm-up. Higher edits more, and spoils more of the surroundings."""
    guidance_warmup_steps: Annotated[int, Field(ge=0, le=100_000_000)] = 20_000
    """Length of the cosine from guidance_start to guidance_end; without it a student may collapse to one output."""
    lambda_id_start: Annotated[float, Field(ge=0, le=1e6)] = 3.0
    """Weight of the identity regularizer at the first step."""
    lambda_id_end: Annotated[float, Field(ge=0, le=1e6)] = 0.1
    """Its weight after `lambda_id_steps`. Lower edits more, and spoils more of the surroundings."""
    lambda_id_steps: Annotated[int, Field(ge=0, le=100_000_000)] = 20_000
    """Length of the cosine from lambda_id_start to lambda_id_end."""
    min_timestep: Annotated[int, Field(ge=0, le=999)] = 50
    """The first of the teacher's timesteps, which are drawn uniformly."""
    max_timestep: Annotated[int, Field(ge=0, le=999)] = 949
    """The last of them."""
    student_timestep: Annotated[int, Field(ge=0, le=999)] = 1
    """The timestep that the student is always called with. Small: its input is a clean latent."""
    seed: Seed = 0
    """Seed of the timesteps, the noise and the images' order."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay a step of the moving average of the student's weights; 0 leaves the average out."""
    autocast: Literal["auto", "off", "bfloat16"] = "auto"
    """Run the networks in bfloat16; weights stay float32. `auto`: where the hardware multiplies bfloat16."""
    gradient_checkpointing: bool = False
    """For a `unet` student: recompute activations in the backward pass instead of storing them. Less memory, a third
    more of the student's time, the same training."""
    checkpoint_every: Annotated[int, Field(gt=0, le=100_000_000)] = 10_000
    """Steps between checkpoints."""
    checkpoint_minutes: Annotated[float, Field(ge=0, le=10_000)] = 20.0
    """Minutes between checkpoints, if `checkpoint_every` is later: the most that a killed training repeats. One of
    Stable Diffusion's size has 10 GB. 0 leaves it to `checkpoint_every`."""
    keep_checkpoints: Annotated[int, Field(gt=0, le=100_000)] = 2
    """How many of the newest checkpoints stay."""
    sample_every: Annotated[int, Field(gt=0, le=100_000_000)] = 500
    """Steps between sample grids."""
    patience: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Early stopping: stop after this many evaluations, one every `sample_every` steps, without a better one, and
    take the best network; 0 trains to the end and takes the last. Better means nearer to the truth on drawn
    development scenes or, where no truth is known, images that still change and show no damage
    (`flows/training/early_stopping.py`)."""
    tracker: Literal["none", "tensorboard", "wandb"] = "none"
    """Where each step's metrics go in addition to `metrics.jsonl`, through accelerate; its package must be
    installed."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        preset = PRESETS.get(given.get("preset", "paper")) if isinstance(given, dict) else None
        if preset is None:
            return given
        if "learning_rate_end" in given and "learning_rate_steps" not in {**preset.values, **given}:
            raise ValueError("learning_rate_end has no effect without learning_rate_steps: give both")
        return {**preset.values, **given}

    @model_validator(mode="after")
    def _check(self) -> "TrainingSettings":
        if self.min_timestep > self.max_timestep:
            raise ValueError(f"min_timestep ({self.min_timestep}) is above max_timestep ({self.max_timestep})")
        if self.student == "compact" and (self.lora_rank or self.gradient_checkpointing):
            raise ValueError("lora_rank and gradient_checkpointing are for the student unet, not for a compact one")
        return self


def edits_of_an_image(settings: TrainingSettings, num_edits: int) -> int:
    """How many of a recipe's `num_edits` edits an image is taken through in a step."""
    return num_edits if settings.edits_per_image == "all" else min(settings.edits_per_image, num_edits)


def scaled_to(settings: TrainingSettings, steps: int) -> TrainingSettings:
    """Scale a training to another number of steps, the length of each schedule alike.

    Args:
        settings: of the training.
        steps: of the scaled one.
    """
    lengths = {key: round(getattr(settings, key) * steps / settings.steps) for key in SCHEDULE_KEYS}
    return settings.model_copy(update={"steps": steps, **lengths})


PIXEL_SIZES: dict[str, tuple[tuple[int, ...], int]] = {"small": ((48, 72, 96), 1), "large": ((64, 96, 128), 2)}
"""The widths and the depth that the names of `pixel.size` stand for."""

PIXEL_LOG_KEYS = {"checkpoint_every", "sample_every"}
"""Keys of PixelSettings that change no weight."""


class PixelSettings(Settings):
    """The pixel network: a small network from image to image, trained on what the student makes of the dataset.

    It needs no VAE, so it runs live on phones, in browsers and on CPUs (`distill/pixel.py`). The defaults were chosen
    on the miniature; nobody has run them with Stable Diffusion.
    """

    size: Literal["small", "large", "none"] = "small"
    """`small` is 2.3 MiB and the fastest; `large` takes three times the time and the file for more detail; `none`
    trains no pixel network."""
    widths: Annotated[tuple[Annotated[int, Field(gt=0, le=2048)], ...], Field(min_length=2, max_length=6)] | None = (
        None
    )
    """Channels of its levels, the finest first (default: those of `size`)."""
    blocks: Annotated[int, Field(gt=0, le=32)] | None = None
    """Residual blocks of each level (default: that of `size`)."""
    edits_per_image: Annotated[int, Field(gt=0, le=65_536)] | Literal["all"] = 2
    """Edits that the student makes of each image, drawn by seed: `all`, or a number, if the recipe has more. They
    are made once, and kept on disk."""
    steps: Annotated[int, Field(gt=0, le=100_000_000)] = 7000
    """Steps of the optimizer; the last seventh, at a lower rate, makes textures sharp."""
    batch_size: Annotated[int, Field(gt=1, le=65_536)] = 8
    """Pairs a step."""
    learning_rate: Annotated[float, Field(gt=0, le=1e38)] = 2e-3
    """Adam's at the first step; it falls to 0 along a cosine, and again from a quarter of it."""
    change_weight: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """Weight of the loss on the pixels that an edit changes, beside the one on all pixels. Without it, a network may
    learn to do nothing where the edited object is small."""
    gradient_weight: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """Weight of the loss on differences between neighbouring pixels: sharp edges."""
    feature_weight: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """Weight of the loss on features of the teacher's VAE encoder."""
    texture_weight: Annotated[float, Field(ge=0, le=1e6)] = 3.0
    """Weight of the loss on how strong the texture of these features is, cell by cell: velvet, pleats and petals,
    which the other losses blur. 0 for it and `feature_weight` leaves the encoder out, and is faster."""
    variogram_weight: Annotated[float, Field(ge=0, le=1e6)] = 5.0
    """Weight of the loss on how coarse textures are, in the last seventh of the steps: it makes them sharp."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.995
    """Decay a step of the moving average of the weights, which is what ships."""
    seed: Seed = 0
    """Seed of the first weights, the drawn edits, the images' order and the augmentation."""
    checkpoint_every: Annotated[int, Field(gt=0, le=100_000_000)] = 500
    """Steps between checkpoints: the most that a killed training repeats."""
    sample_every: Annotated[int, Field(gt=0, le=100_000_000)] = 500
    """Steps between sample grids."""

    def shape(self) -> tuple[tuple[int, ...], int]:
        """The widths and the depth of the network.

        Raises:
            KeyError: for the size `none`, which has no network.
        """
        widths, blocks = PIXEL_SIZES[self.size]
        return self.widths or widths, self.blocks or blocks


def pixel_edits_of_an_image(settings: PixelSettings, num_edits: int) -> int:
    """How many of a recipe's `num_edits` edits the student makes of an image, for a pixel network."""
    return num_edits if settings.edits_per_image == "all" else min(settings.edits_per_image, num_edits)


class EvaluationSettings(Settings):
    """What a student is measured on."""

    num_scenes: Annotated[int, Field(gt=0, le=1_000_000)] = 100
    """How many unseen drawn scenes every edit is tried on."""
    num_no_op_scenes: Annotated[int, Field(ge=0, le=1_000_000)] = 25
    """How many scenes are also tried that already show what the edit asks for, and should stay as they are."""
    split: Split = "test"
    """Settings are chosen on `development` and reported on `test`; `shifted` is drawn in styles never trained on."""
    given: dict[str, str] = Field(default_factory=dict)
    """What all scenes show before the edit, such as `{ weather = "clear" }`, if the network is for such images."""


class EditSettings(Settings):
    """How an image is edited without training. With Stable Diffusion the defaults are the published ones."""

    method: Literal["dds", "sds", "regularized-sds"] = "dds"
    optimizer: Literal["sgd", "adam"] = "sgd"
    iterations: Annotated[int, Field(gt=0, le=1_000_000)] = 200
    """400 for large changes of structure."""
    learning_rate: Annotated[float, Field(gt=0, le=1e38)] | None = None
    """1 means a step of 0.0244 times the score at every resolution (see `distill.optimization`); 2 is the published
    one (default: the teacher's own, 2 but for the miniature)."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    decay_every: Annotated[int, Field(gt=0, le=1_000_000)] = 20
    guidance_scale: Annotated[float, Field(ge=1, le=1000)] | None = None
    """Not in the supplement; the authors' notebook has 7.5 (default: the teacher's own, 7.5 but for the
    miniature)."""
    lambda_id: Annotated[float, Field(ge=0, le=1e6)] = 0.3
    """Weight of the L2 regularizer, for regularized-sds alone."""
    firm_threshold: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Not in the paper: undo what the score's noise moved. Places of the latent that moved by less than half of this
    go back, those that moved by more than it stay (`distill.optimization.firmly_thresholded`); 0 undoes nothing."""
    min_timestep: Annotated[int, Field(ge=0, le=999)] = 50
    max_timestep: Annotated[int, Field(ge=0, le=999)] = 949
    seed: Seed = 0

    @model_validator(mode="after")
    def _check(self) -> "EditSettings":
        if self.min_timestep > self.max_timestep:
            raise ValueError(f"min_timestep ({self.min_timestep}) is above max_timestep ({self.max_timestep})")
        return self


PUBLISHED_EDIT = {"learning_rate": 2.0, "guidance_scale": 7.5}
"""The published values of what EditSettings leave to the teacher."""
