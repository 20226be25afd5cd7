"""A run folder: where each part of a run lies, whose run it is, and which stages are done.

recipe.toml     as resolved           student/          the distilled network, in diffusers' format
dataset/        Parquet and a card    model.onnx        what ships
checkpoints/    step_000500/ ...      evaluation.json   the numbers
metrics.jsonl   one line a step       grid.png          input, translated, true counterfactual
samples/        step_000500.png       report.html       all of it on one page
training.gif    the samples, in turn   best/           the best student so far, by its step
development.json  how good it was there, on its way
latents/        the set's latents     stages.json       what each output was made from
dataset.url     where the set is, if not in dataset/
promotion.json  whether `latest` was moved to this run, and why
timings.json    seconds that each stage took
processes-HOST.log  what the processes of a training said, where there were several
"""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import FiniteFloat
from typing_extensions import TypedDict

from flows.config.loading import load_recipe
from flows.config.naming import digest, slug
from flows.config.schema import Recipe, flatten
from flows.config.toml import to_toml
from synth.errors import RecipeError, RunError
from synth.files import whole_folder, write_bytes, write_text
from synth.state import parse_json, read_json, reading
from synth.urls import credentials_refused, has_credentials

if TYPE_CHECKING:
    from distill.students import Student

_MAX_URL = 4096  # characters
RUNS = Path("runs")  # in the working directory
_STEP = r"step_[0-9]{1,9}"
_WEIGHTS = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\.(json|safetensors)"
_RUN_FILE = re.compile(
    "|".join(
        (
            r"recipe\.toml|stages\.json|timings\.json|promotion\.json|development\.json|dataset\.url|README\.md",
            r"metrics\.jsonl|training\.gif|report\.html|evaluation[a-z0-9-]*\.json|grid[a-z0-9-]*\.png",
            r"model[a-z0-9-]{0,40}\.(onnx|onnx\.data|torchscript|pt2)|processes-[A-Za-z0-9_.-]{1,100}\.log",
            rf"samples/{_STEP}\.png|student/{_WEIGHTS}|best/({_STEP}/)?{_WEIGHTS}",
            rf"checkpoints/{_STEP}/(state\.json|adam\.safetensors|(student|averaged)/{_WEIGHTS})",
        )
    )
)
_MAY_GROW = ("scenes.count", "training.steps")  # a set can be painted further, a training can go on
_OF_THE_TRAINING = ("training.", "edits.")  # free as long as nothing was trained: no painted image depends on them
_MAY_CHANGE = (
    *("validated_on", "teacher.device", "teacher.allow_cpu", "export.", "evaluation.", "operations."),
    *("training.checkpoint_every", "training.keep_checkpoints", "training.sample_every", "training.micro_batch_size"),
    *("training.gradient_checkpointing", "training.tracker", "training.patience"),
    "training.preset",  # its values are compared
)


class Evaluation(TypedDict):
    """What evaluation.json holds."""

    split: str
    num_scenes: int
    given: dict[str, str]
    edits: list[dict[str, Any]]
    """Rows of `distill.counterfactuals.Scores`."""
    means: list[dict[str, Any]]
    """Their means over the edits."""


class RunFolder:
    """The paths in a run folder. Nothing is read or written before it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.toml"
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples"
        self.film = path / "training.gif"
        self.student = path / "student"
        self.best = path / "best"
        self.development = path / "development.json"
        self.model = path / "model.onnx"
        self.evaluation = path / "evaluation.json"
        self.grid = path / "grid.png"
        self.report = path / "report.html"
        self.stages = path / "stages.json"
        self.promotion = path / "promotion.json"
        self.timings = path / "timings.json"

    @property
    def dataset(self) -> str:
        """The painted set: the run's own, or the one that `dataset.url` names."""
        return self.named_dataset or str(self.path / "dataset")

    @property
    def named_dataset(self) -> str | None:
        """The dataset that `dataset.url` names, if there is such a file.

        Raises:
            RunError: if it holds anything but one line.
        """
        file = self.path / "dataset.url"
        if not file.exists():
            return None
        with reading(file, RunError, "delete it, and name the dataset with --data"):
            url = file.read_text(encoding="utf-8").removesuffix("\n")
            if not url or not url.isprintable() or len(url) > _MAX_URL:
                raise ValueError("it is not one line with a folder or URL")
        return url

    def check_dataset_is_local(self) -> None:
        """Refuse a dataset on a remote storage that only the folder names: the folder may be somebody else's.

        Raises:
            RunError: with how to say yes.
        """
        url = self.named_dataset
        if url is not None and "://" in url:
            raise RunError(
                f"{self.path} names the dataset {url}, which is on a remote storage: name it yourself with --data, or "
                "repeat with --trust if you trust where the folder comes from"
            )

    def use_dataset(self, url: str) -> None:
        """Use a dataset that lies elsewhere.

        Raises:
            RunError: for a URL with credentials in it.
        """
        if has_credentials(url):
            raise RunError(credentials_refused(url))
        write_text(self.path / "dataset.url", f"{url}\n")

    @staticmethod
    def default_path(recipe: Recipe) -> Path:
        """Where a run goes that nobody named a folder for: the same recipe into the same folder, so that its next run
        finds all done, and another recipe, though it bears the same name, into another."""
        matters = {key: value for key, value in flatten(recipe).items() if not key.startswith(_MAY_CHANGE)}
        return RUNS / f"{slug(recipe.name)}-{digest(matters)[:8]}"

    @classmethod
    def check(cls, recipe: Recipe, path: Path) -> "RunFolder":
        """The folder, if this recipe's run can be made or resumed in it; nothing is written. A folder that holds a
        recipe and nothing made from it is as good as new.

        Raises:
            RunError: if another recipe's run is in it (the message says what differs), or what is not a run.
        """
        run = cls(path)
        made = [entry for entry in path.iterdir() if entry != run.recipe] if path.exists() else []
        if made and run.recipe.exists():
            run._refuse_another(recipe)
        elif made:
            raise RunError(f"{path} is not a run folder, and not empty: choose another --out")
        return run

    @classmethod
    def open_or_create(cls, recipe: Recipe, path: Path) -> "RunFolder":
        """The folder for this recipe's run: a new one, or the one in which the same run was begun.

        Raises:
            RunError: as `check`.
        """
        run = cls.check(recipe, path)
        path.mkdir(parents=True, exist_ok=True)
        run.adopt(recipe)
        return run

    def adopt(self, recipe: Recipe) -> None:
        """Keep the recipe as the run's, if it is not already."""
        content = to_toml(recipe).encode()
        if not self.recipe.exists() or self.recipe.read_bytes() != content:
            write_bytes(self.recipe, content)

    def load_recipe(self) -> Recipe:
        """The recipe of the run in this folder.

        Raises:
            RunError: if there is none.
        """
        if not self.recipe.exists():
            raise RunError(f"{self.path} is not a run folder: `distillery run RECIPE --out {self.path}` makes one")
        return load_recipe(self.recipe)

    def is_done(self, stage: str, fingerprint: str, *outputs: Path) -> bool:
        """Whether a stage's outputs are there, and were made from what they would be made from now."""
        return self._stages().get(stage) == fingerprint and all(output.exists() for output in outputs)

    def fingerprint_of(self, stage: str) -> str:
        """What a stage's outputs were made from, as the next stage's fingerprint needs it; "" if it was not run."""
        return self._stages().get(stage, "")

    def mark_done(self, stage: str, fingerprint: str) -> None:
        """Note what a stage's outputs were made from, once they are on disk."""
        stages = self._stages() | {stage: fingerprint}
        write_text(self.stages, json.dumps(stages, indent=2) + "\n")

    def drop_metrics(self) -> bool:
        """Delete what was measured of a model file that is no more; whether there was anything."""
        names = [f"{file.stem}*{file.suffix}" for file in (self.evaluation, self.grid)]
        figures = [file for name in names for file in self.path.glob(name)]
        for file in figures:
            file.unlink()
        return bool(figures)

    def last_work(self) -> int:
        """When a stage last made something, in ns; 0 for never. A stage that finds all done leaves it as it is."""
        return self.stages.stat().st_mtime_ns if self.stages.exists() else 0

    def add_seconds(self, stage: str, seconds: float) -> None:
        """A stage took so much longer: a training that goes on, a set that grows."""
        there = self.seconds()
        there[stage] = round(there.get(stage, 0.0) + seconds, 3)
        write_text(self.timings, json.dumps(there, indent=2) + "\n")

    def seconds(self) -> dict[str, float]:
        """What each stage took, by the flows that ended."""
        if not self.timings.exists():
            return {}
        seconds: dict[str, float] = read_json(self.timings, dict[str, FiniteFloat], RunError, "delete it")
        return seconds

    def read_evaluation(self, file: Path | None = None) -> "Evaluation | None":
        """What was measured, or None if nothing was yet.

        Args:
            file: of another split (default: the recipe's own).

        Raises:
            RunError: for a damaged file.
        """
        file = file or self.evaluation
        if not file.exists():
            return None
        remedy = f"delete it, and `distillery evaluate student {self.path}` measures again"
        evaluation: Evaluation = read_json(file, Evaluation, RunError, remedy)
        return evaluation

    def read_metrics(self) -> list[dict[str, float]]:
        """The training's metrics, a row a step. A last line that is not whole, of a killed process, is left out.

        Raises:
            RunError: for a damaged file.
        """
        if not self.metrics.exists():
            return []
        with reading(self.metrics, RunError, "delete it: the training needs it no more"):
            lines = self.metrics.read_bytes().split(b"\n")[:-1]
            rows: list[dict[str, float]] = [parse_json(line, dict[str, float]) for line in lines]
            for row in rows:
                row["step"]  # what every row has
        return rows

    def _stages(self) -> dict[str, str]:
        if not self.stages.exists():
            return {}
        remedy = "delete it, and each stage is done again"
        stages: dict[str, str] = read_json(self.stages, dict[str, str], RunError, remedy)
        return stages

    def _refuse_another(self, recipe: Recipe) -> None:
        try:
            there, here = flatten(load_recipe(self.recipe)), flatten(recipe)
        except RecipeError as error:
            raise RunError(f"{self.path} holds a run that cannot be read ({error}): choose another --out") from error
        for key in [*there, *(key for key in here if key not in there)]:
            before: Any = there.get(key)
            now: Any = here.get(key)
            if before == now or key.startswith(_MAY_CHANGE):
                continue
            if key in _MAY_GROW and now > before and (key != "scenes.count" or not self.checkpoints.exists()):
                continue
            if key.startswith(_OF_THE_TRAINING) and not self.checkpoints.exists():
                continue
            raise RunError(
                f"{self.path} holds another run: its {key} is {before!r}, this recipe's is {now!r}; "
                "choose another --out, or delete the folder"
            )


def is_run_file(name: str) -> bool:
    """Whether a relative name, with forward slashes, is of a file that a run makes and cannot make again from others.
    The dataset has a place of its own, and latents follow from it."""
    return _RUN_FILE.fullmatch(name) is not None


def save_student(student: "Student", folder: Path) -> None:
    """Write the student's folder, whole or not at all, in place of an older one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as temporary:
        student.save_pretrained(temporary)
