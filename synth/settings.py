"""The settings that this room owns. No torch here: a recipe is read before anything heavy is imported."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # a text may have tabs and several lines
_MAX_TEXT = 10_000  # characters; a teacher reads a few hundred
Seed = Annotated[int, Field(ge=0, le=2**53)]
"""Any whole number that JSON and TOML readers keep exactly."""

Substitution = dict[str, str]
"""An edit: slots of the scenes' template, each with its new value."""


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused, values do not change.

    The text under a field is its description: in Prefect's form, and on the page of all keys (`flows.config.key_reference`).
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # it may hold what must not be shown
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_control_characters(cls, given: Any) -> Any:
        """They cannot be seen, and TOML, file names and logs have no place for them."""
        for text in texts_of(given):
            if found := _CONTROL.search(text):
                raise ValueError(f"{text[:40]!r} has the control character {found[0]!r}")
            if len(text) > _MAX_TEXT:
                raise ValueError(f"{text[:40]!r}... has more than {_MAX_TEXT} characters")
        return given


def texts_of(value: Any) -> Iterator[str]:
    """The texts of plain values, keys included. Settings below have validators of their own."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for pair in value.items() for item in pair for text in texts_of(item))
    elif isinstance(value, list | tuple):
        yield from (text for item in value for text in texts_of(item))


class TeacherSettings(Settings):
    """Which diffusion model paints and teaches."""

    id: str = "miniature"
    """`miniature`, a Hub id or a folder in diffusers' format."""
    revision: str | None = None
    """A branch, tag or commit of a Hub id."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`auto`: bfloat16 for a full-size model on a GPU, float32 elsewhere."""
    device: str = "auto"
    """`auto`: the GPU when there is one."""
    allow_cpu: bool = False
    """Run a full-size model on a CPU all the same: hours where a GPU takes minutes."""


class FilterSettings(Settings):
    """What a painted image must pass; a rejected one is painted again from another seed."""

    min_contrast: Annotated[float, Field(ge=0, le=128)] = 2.0
    """Standard deviation of the grey values, 0 to 128; an image below it is blank."""
    near_duplicates: Annotated[int, Field(ge=0, le=32)] | None = None
    """Reject an image whose 64-bit perceptual hash differs in at most so many bits from an earlier one's; None is
    off. The hash knows no colours: a room that is there in red and in blue counts as one."""
    clip: str | None = None
    """A CLIP model's Hub id or folder; None filters without CLIP."""
    min_clip_score: Annotated[float, Field(ge=-1, le=1)] = 0.2
    """Least cosine similarity of image and prompt."""
    object: str | None = None
    """What must be there, in words ("a sofa"), as CLIP sees it."""
    python: str | None = None
    """`package.module:function` of one's own: called with the scene and its image, uint8 (H, W, 3); returns None to
    keep it, or the reason as text."""
    max_attempts: Annotated[int, Field(gt=0, le=1000)] = 12
    """How often one scene is painted before the set is given up as hopeless."""

    @model_validator(mode="after")
    def _check(self) -> "FilterSettings":
        if self.object is not None and self.clip is None:
            raise ValueError("object is looked for by CLIP: name a model in filters.clip, or leave object out")
        return self


Weight = Annotated[int, Field(gt=0, le=1000)]


class SceneSettings(Settings):
    """Which scenes the teacher paints. What is None comes from the teacher's own defaults."""

    template: str
    """The words of every scene, with slots in braces: "a {color} sofa in a {room}"."""
    slots: dict[str, Annotated[list[str], Field(min_length=1)] | Annotated[dict[str, Weight], Field(min_length=1)]]
    """The values of each slot: a list, or values with whole numbers that say how often each comes."""
    count: Annotated[int, Field(gt=0, le=10_000_000)]
    """How many scenes. A set that was painted grows when it is larger."""
    seed: Seed = 0
    """Of every scene's words and noise."""
    negative_prompt: str = ""
    """What the teacher shall keep away from, in every scene."""
    image_size: Annotated[int, Field(gt=0, le=8192, multiple_of=8)] | None = None
    """Side of the images in pixels; None is the teacher's own."""
    num_inference_steps: Annotated[int, Field(gt=0, le=1000)] | None = None
    """Of the teacher's sampler; None is the teacher's own."""
    guidance_scale: Annotated[float, Field(ge=1, le=1000)] | None = None
    """Of the sampler, not of the training; None is the teacher's own."""
    batch_size: Annotated[int, Field(gt=0, le=4096)] = 10
    """Part of the data's fingerprint: a batch's size may move the last bit of a pixel."""
    shard_size: Annotated[int, Field(gt=0, le=100_000)] = 250
    """Scenes in one Parquet file, which is painted whole or not at all."""
    filters: FilterSettings = FilterSettings()
    """What an image must pass."""


class PhotoTextSettings(Settings):
    """Photographs in the place of painted scenes (`distillery import-photos`): what is said of them."""

    source: str | None = None
    """One text for all of them, such as "A photo of a person."; an empty one is the null text. Each edit is then
    `{ target = "A photo of a zombie." }`. Left out, each photograph's own caption; an edit then replaces words in it,
    `{ cat = "lion" }`, and leaves captions without them as they are."""


class PhotoSettings(Settings):
    """How photographs become a data set."""

    image_size: Annotated[int, Field(gt=0, le=8192, multiple_of=8)] = 512
    """Side of the squares that they are made, in pixels."""
    fit: Literal["crop", "pad"] = "crop"
    """Fill the square and cut what stands out, or show all of the image between white bars."""
    min_side: Annotated[int, Field(gt=0, le=8192)] = 64
    """Reject an image whose shorter side is below it, in pixels."""
    max_aspect_ratio: Annotated[float, Field(ge=1, le=1000)] = 4.0
    """Reject an image that is longer by more than this."""
    image_column: str = "image"
    """Of Parquet files and data sets."""
    caption_column: str = "text"
    """Of Parquet files, data sets and metadata.jsonl; where there is none, captions are empty."""
    split: str = "train"
    """Of a data set on the Hub."""
    shard_size: Annotated[int, Field(gt=0, le=100_000)] = 250
