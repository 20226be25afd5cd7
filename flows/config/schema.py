"""A recipe: which teacher, which scenes, which edits, and how to train, export and measure.

It composes the packages' settings and owns none. It imports nothing heavy, so a wrong recipe is refused at once.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator

from distill.presets import PRESETS
from distill.settings import EvaluationSettings, PixelSettings, TrainingSettings
from flows.config.naming import edit_name
from flows.config.operations import OperationSettings
from inference.settings import ExportSettings
from synth.dataset.prompts import PhotoTexts, Template
from synth.errors import RecipeError, nearest
from synth.settings import (
    PhotoTextSettings,
    SceneSettings,
    Settings,
    Substitution,
    TeacherSettings,
    composed,
    texts_of,
)
from synth.urls import credentials_refused, has_credentials

EditName = Annotated[str, AfterValidator(edit_name)]
"""Lower-case letters and digits of any script, hyphens and underscores: it becomes part of file names."""


class Recipe(Settings):
    """Everything that a run depends on. The run folder keeps it, as resolved, in `recipe.toml`."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\n\r\t]*$")]
    """The name of the recipe, its run folders and its deployment."""
    validated_on: str = "nothing yet"
    """What the settings were tried on, for the users of the model."""
    teacher: TeacherSettings = TeacherSettings()
    """The diffusion model that paints and teaches."""
    scenes: SceneSettings | None = None
    """What to paint. A recipe has this or `photos`."""
    photos: PhotoTextSettings | None = None
    """The texts of photographs, for an imported dataset (`distillery import-photos`)."""
    edits: Annotated[dict[EditName, Substitution], Field(min_length=1)]
    """Each edit's name, and the new values of its slots: `red-leather = { color = "red" }`. For photographs see
    `photos.source`."""
    training: TrainingSettings
    """How the student is trained."""
    pixel: PixelSettings = PixelSettings()
    """The small network from image to image that the student is compressed into."""
    export: ExportSettings = ExportSettings()
    """Which model files to write."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """How the student is measured."""
    operations: OperationSettings = OperationSettings()
    """How runs are operated."""

    @model_validator(mode="before")
    @classmethod
    def _take_the_teachers_preset(cls, given: Any) -> Any:
        """Fill in the preset that suits the teacher, and the recipe's own table for that preset.

        The values for the miniature would ruin a training on Stable Diffusion, and vice versa. So a recipe for both
        names no preset, and overrides one in a table of its name: `[training.short]`.
        """
        if not isinstance(given, dict):
            return given
        training, teacher = (given.get(table) or {} for table in ("training", "teacher"))
        if not isinstance(training, dict) or not isinstance(teacher, dict):
            return given
        suits = preset_for(teacher.get("id", TeacherSettings().id), training.get("student", "unet"))
        preset = training.get("preset", suits)
        tables = {name: training[name] for name in PRESETS if isinstance(training.get(name), dict)}
        known = [key for key in TrainingSettings.model_fields if key != "preset"]
        for name, table in tables.items():  # check the unused preset's table too
            for key in table.keys() - known:
                raise ValueError(f"unknown key training.{name}.{key}{nearest(key, known)}")
        # A key beside the tables overrides the preset's table.
        plain = {key: value for key, value in training.items() if key not in tables}
        return {**given, "training": {**tables.get(preset, {}), **plain, "preset": preset}}

    @model_validator(mode="before")
    @classmethod
    def _refuse_credentials(cls, given: Any) -> Any:
        """Refuse passwords in URLs: every run folder keeps its recipe, and may be passed on."""
        for text in texts_of(given):
            if has_credentials(text):
                raise ValueError(credentials_refused(text))
        return given

    @field_validator("edits", mode="before")
    @classmethod
    def _compose(cls, given: Any) -> Any:
        return composed(given)

    @field_validator("edits")
    @classmethod
    def _in_one_order(cls, edits: dict[str, Substitution]) -> dict[str, Substitution]:
        """Sort by name: an edit's index is its place, and Postgres' jsonb does not keep the order of keys."""
        return dict(sorted(edits.items()))

    def to_paint(self) -> SceneSettings:
        """The scenes to paint.

        Raises:
            RecipeError: for a recipe of photographs.
        """
        if self.scenes is None:
            raise RecipeError(
                f"{self.name} is a recipe of photographs, so there is nothing to paint: import your photographs with "
                "`distillery import-photos`, and train on them with `distillery distill RECIPE --data DATASET`"
            )
        return self.scenes

    def texts(self) -> Template | PhotoTexts:
        """The texts of the images: a template, or those of photographs.

        Raises:
            RecipeError: for a template that cannot be filled.
        """
        return Template(self.to_paint()) if self.photos is None else PhotoTexts(self.photos)


def preset_for(teacher: str, student: str) -> str:
    """The preset that suits a teacher's id and a kind of student.

    Returns:
        `short` for the miniature; for any other teacher `compact` for a compact student, and `paper` for a unet.
    """
    if teacher == TeacherSettings().id:
        return "short"
    return "compact" if student == "compact" else "paper"


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Flatten to dotted keys: {"training.steps": 140, ...}. An edit stays one value."""
    flat: dict[str, Any] = {}
    for section, value in recipe.model_dump(mode="json").items():
        if isinstance(value, dict):
            flat |= {f"{section}.{key}": inner for key, inner in value.items()}
        else:
            flat[section] = value
    return flat
