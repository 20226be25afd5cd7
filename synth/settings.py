"""The settings that this room owns. No torch here: a recipe is read before anything heavy is imported."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Substitution = dict[str, str]
"""An edit: slots of the scenes' template, each with its new value."""


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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


class SceneSettings(Settings):
    """Which scenes the teacher paints. What is None comes from the teacher's own defaults."""

    template: str
    slots: dict[str, Annotated[list[str], Field(min_length=1)]]
    count: Annotated[int, Field(gt=0)]
    seed: int = 0
    negative_prompt: str = ""
    image_size: Annotated[int, Field(gt=0, multiple_of=8)] | None = None
    num_inference_steps: Annotated[int, Field(gt=0)] | None = None
    guidance_scale: Annotated[float, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(gt=0)] = 10
    """Part of the data's fingerprint: a batch's size may move the last bit of a pixel."""
    shard_size: Annotated[int, Field(gt=0)] = 250
