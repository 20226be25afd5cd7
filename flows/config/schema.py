"""A recipe: which teacher, which scenes, which edits, and how to train, export and measure.

It composes the packages' settings and owns none. Nothing heavy is imported, so that a wrong recipe is refused at once.
"""

from typing import Annotated, Any

from pydantic import Field, StringConstraints, field_validator, model_validator

from distill.settings import PRESETS, EvaluationSettings, TrainingSettings
from flows.config.operations import OperationSettings
from inference.settings import ExportSettings
from synth.dataset.prompts import PhotoTexts, Template
from synth.errors import RecipeError, nearest
from synth.settings import PhotoTextSettings, SceneSettings, Settings, Substitution, TeacherSettings, texts_of
from synth.urls import credentials_refused, has_credentials

EditName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
"""Lower case, digits, hyphens: it becomes part of file names."""


class Recipe(Settings):
    """All that a run depends on. The run folder keeps it as resolved, in `recipe.toml`."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\n\r\t]*$")]
    """Of the recipe, its run folders and its deployment."""
    validated_on: str = "nothing yet"
    """What its settings were tried on, for whoever gets the model."""
    teacher: TeacherSettings = TeacherSettings()
    """Who paints and teaches."""
    scenes: SceneSettings | None = None
    """What is painted. A recipe has this or `photos`."""
    photos: PhotoTextSettings | None = None
    """What is said of photographs, for a set of one's own (`distillery import-photos`)."""
    edits: Annotated[dict[EditName, Substitution], Field(min_length=1)]
    """Each edit's name, and the slots that it gives other values: `red-leather = { color = "red" }`. For photographs
    see `photos.source`."""
    training: TrainingSettings
    """How the student is trained."""
    export: ExportSettings = ExportSettings()
    """Which model files are written."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """What the student is measured on."""
    operations: OperationSettings = OperationSettings()
    """How runs are looked after."""

    @model_validator(mode="before")
    @classmethod
    def _take_the_teachers_preset(cls, given: Any) -> Any:
        """What trains on the miniature within minutes would wreck a Stable Diffusion, and the other way round.

        So a recipe for both names no preset, and what it wants otherwise of one stands in a table of that name.
        """
        if not isinstance(given, dict):
            return given
        training, teacher = (given.get(part) or {} for part in ("training", "teacher"))
        if not isinstance(training, dict) or not isinstance(teacher, dict):
            return given
        preset = training.get("preset", preset_for(teacher.get("id", TeacherSettings().id)))
        tables = {name: training[name] for name in PRESETS if isinstance(training.get(name), dict)}
        known = [key for key in TrainingSettings.model_fields if key != "preset"]
        for name, table in tables.items():  # also that of the preset which is not used now
            for key in table.keys() - known:
                raise ValueError(f"unknown key training.{name}.{key}{nearest(key, known)}")
        beside = {key: value for key, value in training.items() if key not in tables}
        return {**given, "training": {**tables.get(preset, {}), **beside, "preset": preset}}

    @model_validator(mode="before")
    @classmethod
    def _refuse_credentials(cls, given: Any) -> Any:
        """A recipe is kept in every run folder, and travels on with it."""
        for text in texts_of(given):
            if has_credentials(text):
                raise ValueError(credentials_refused(text))
        return given

    @field_validator("edits")
    @classmethod
    def _in_one_order(cls, edits: dict[str, Substitution]) -> dict[str, Substitution]:
        """By name: an edit's number is its place, and a server's database keeps no order (Postgres' jsonb)."""
        return dict(sorted(edits.items()))

    def to_paint(self) -> SceneSettings:
        """The scenes.

        Raises:
            RecipeError: for a recipe of photographs.
        """
        if self.scenes is None:
            raise RecipeError(
                f"{self.name} is a recipe of photographs, and there is nothing to paint: make a set of yours with "
                "`distillery import-photos`, and train on it with `distillery distill RECIPE --data SET`"
            )
        return self.scenes

    def texts(self) -> Template | PhotoTexts:
        """What the images' texts are.

        Raises:
            RecipeError: for a template that cannot be filled.
        """
        return Template(self.to_paint()) if self.photos is None else PhotoTexts(self.photos)


def preset_for(teacher: str) -> str:
    """The preset that suits a teacher's id: `short` for the miniature, `paper` for any other."""
    return "short" if teacher == TeacherSettings().id else "paper"


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Dotted key -> value: {"training.steps": 140, ...}. An edit stays one value."""
    flat: dict[str, Any] = {}
    for section, value in recipe.model_dump(mode="json").items():
        if isinstance(value, dict):
            flat |= {f"{section}.{key}": inner for key, inner in value.items()}
        else:
            flat[section] = value
    return flat
