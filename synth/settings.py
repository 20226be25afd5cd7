"""The settings of this package. It imports no torch: a recipe is read before anything heavy is imported."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from synth.words import nfc

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # all but tabs and line feeds
_MAX_TEXT = 10_000  # characters; a teacher reads a few hundred
Seed = Annotated[int, Field(ge=0, le=2**53)]
"""A whole number that every JSON and TOML reader keeps exactly."""

Sampler = Literal["own", "dpm++"]

Substitution = dict[str, str]
"""An edit: slots of the scenes' template, each with its new value."""


class Settings(BaseModel):
    """Base of all settings: refuses unknown keys, and is frozen.

    The text under a field is its description, in Prefect's form and on the page of all keys
    (`flows.config.key_reference`).
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # a value may be a secret
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_control_characters(cls, given: Any) -> Any:
        """Refuse what nobody sees and what TOML, file names and logs cannot hold."""
        for text in texts_of(given):
            if found := _CONTROL.search(text):
                raise ValueError(f"{text[:40]!r} contains the control character {found[0]!r}")
            if len(text) > _MAX_TEXT:
                raise ValueError(f"{text[:40]!r}... is longer than {_MAX_TEXT} characters")
        return given


def texts_of(value: Any) -> Iterator[str]:
    """Yield every text in plain values, keys included. Nested `Settings` are skipped: they validate themselves."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for pair in value.items() for item in pair for text in texts_of(item))
    elif isinstance(value, list | tuple):
        yield from (text for item in value for text in texts_of(item))


def composed(value: Any) -> Any:
    """Return plain values with every text, keys included, in Unicode's composed form: so a name equals itself.

    Raises:
        ValueError: for two keys of a table that are one in this form.
    """
    if isinstance(value, str):
        return nfc(value)
    if isinstance(value, list | tuple):
        return [composed(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    table = {composed(key): composed(item) for key, item in value.items()}
    if len(table) < len(value):
        twice = next(key for key in table if sum(composed(other) == key for other in value) > 1)
        raise ValueError(f"{twice!r} is there twice, written in two forms of Unicode: remove one")
    return table


class TeacherSettings(Settings):
    """Which diffusion model paints and teaches."""

    id: str = "miniature"
    """`miniature`, a Hub id, or a folder in diffusers' format."""
    revision: str | None = None
    """Branch, tag or commit of a Hub id."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`auto`: on a GPU, for a full-size model, float16 for Stable Diffusion 1.x and 2.x and bfloat16 for XL and 3 (or
    float16, if the card does not multiply bfloat16); else float32."""
    t5: bool = True
    """Load the T5 of Stable Diffusion 3, its largest text encoder. Without it the model takes 9 GB less and follows
    long texts less closely; no effect on other families."""
    device: str = "auto"
    """`auto`: the GPU if there is one, else the CPU."""
    allow_cpu: bool = False
    """Allow a full-size model on a CPU, which takes hours where a GPU takes minutes."""


class FilterSettings(Settings):
    """What a painted image must pass. A rejected image is painted again from another seed."""

    min_contrast: Annotated[float, Field(ge=0, le=128)] = 2.0
    """Smallest standard deviation of the grey values, 0 to 128; an image below it counts as blank."""
    near_duplicates: Annotated[int, Field(ge=0, le=32)] | None = None
    """Reject an image whose 64-bit perceptual hash differs from an earlier one's in at most this many bits; None
    switches it off. The hash ignores colours: the same room in red and in blue counts as a duplicate."""
    clip: str | None = None
    """Hub id or folder of a CLIP model; None filters without CLIP."""
    min_clip_score: Annotated[float, Field(ge=-1, le=1)] = 0.2
    """Smallest cosine similarity of image and prompt, -1 to 1."""
    object: str | None = None
    """What CLIP must see in every image, such as "a sofa"."""
    python: str | None = None
    """Your own filter as `package.module:function`. It is called with the scene and its image, uint8 (H, W, 3), and
    returns None to keep the image, or the reason to reject it."""
    max_attempts: Annotated[int, Field(gt=0, le=1000)] = 12
    """How often one scene is painted before the run stops with an error."""

    @model_validator(mode="after")
    def _check(self) -> "FilterSettings":
        if self.object is not None and self.clip is None:
            raise ValueError("object needs CLIP: name a model in filters.clip, or remove object")
        return self


Weight = Annotated[int, Field(gt=0, le=1000)]


class SceneSettings(Settings):
    """Which scenes the teacher paints. A value of None stands for the teacher's default."""

    template: str
    """The prompt of every scene, with slots in braces: "a {color} sofa in a {room}"."""
    slots: dict[str, Annotated[list[str], Field(min_length=1)] | Annotated[dict[str, Weight], Field(min_length=1)]]
    """The values of each slot: a list, or a table of values and their weights, whole numbers that say how often each
    comes."""
    count: Annotated[int, Field(gt=0, le=10_000_000)]
    """How many scenes. A painted dataset grows when you raise it."""
    seed: Seed = 0
    """Seed of every scene's prompt and noise."""
    negative_prompt: str = ""
    """What the teacher avoids, in every scene."""
    image_size: Annotated[int, Field(gt=0, le=8192, multiple_of=8)] | None = None
    """Side of the images in pixels (default: the teacher's)."""
    sampler: Sampler | None = None
    """`dpm++` is DPM-Solver++ of second order, whose 25 steps do what others need 50 for; `own` is the one in the
    teacher's folder (default: `dpm++` for Stable Diffusion 1.x and 2.x, else `own`)."""
    num_inference_steps: Annotated[int, Field(gt=0, le=1000)] | None = None
    """Steps of the teacher's sampler (default: the teacher's)."""
    guidance_scale: Annotated[float, Field(ge=1, le=1000)] | None = None
    """Guidance of the sampler, not of the training (default: the teacher's)."""
    batch_size: Annotated[int, Field(gt=0, le=4096)] = 10
    """Images painted at once. It is in the dataset's fingerprint, for it may change the last bit of a pixel."""
    shard_size: Annotated[int, Field(gt=0, le=100_000)] = 250
    """Scenes in one Parquet file. A file is written whole or not at all."""
    filters: FilterSettings = FilterSettings()
    """What an image must pass."""

    @field_validator("template", "slots", mode="before")
    @classmethod
    def _compose(cls, given: Any) -> Any:
        return composed(given)


class PhotoTextSettings(Settings):
    """The prompts of photographs, which replace painted scenes (`distillery import-photos`)."""

    source: str | None = None
    """One source prompt for all photographs, such as "A photo of a person."; an empty one is the null prompt. An edit
    is then `{ target = "A photo of a zombie." }`. Without it, each photograph's caption is its source prompt, and an
    edit replaces words in captions: `{ cat = "lion" }`. Captions without these words stay as they are."""
    long_captions: Literal["leave-out", "cut"] = "leave-out"
    """What to do with a photograph whose caption, before or after an edit, is longer than the teacher reads:
    `leave-out` trains without the photograph, `cut` keeps the first words of its caption. The log names the
    photographs."""

    @field_validator("source", mode="before")
    @classmethod
    def _compose(cls, given: Any) -> Any:
        return composed(given)


class PhotoSettings(Settings):
    """How photographs become a dataset."""

    image_size: Annotated[int, Field(gt=0, le=8192, multiple_of=8)] = 512
    """Side of the square images that they become, in pixels."""
    fit: Literal["crop", "pad"] = "crop"
    """`crop` fills the square and cuts off the rest; `pad` shows the whole image between white bars."""
    min_side: Annotated[int, Field(gt=0, le=8192)] = 64
    """Smallest shorter side of an image, in pixels; a smaller image is rejected."""
    max_aspect_ratio: Annotated[float, Field(ge=1, le=1000)] = 4.0
    """Largest ratio of the longer side to the shorter; a longer image is rejected."""
    image_column: str | None = None
    """Column of the images in Parquet files and Hub datasets; None finds it by its usual names and its type."""
    caption_column: str | None = None
    """Column of the captions in Parquet files, Hub datasets and metadata; None finds it by its usual names."""
    split: str = "train"
    """Split of a Hub dataset, or of a folder that has some."""
    shard_size: Annotated[int, Field(gt=0, le=100_000)] = 250
    """Images in one Parquet file."""
