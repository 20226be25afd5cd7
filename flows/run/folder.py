"""A run folder: where its files are, which recipe it belongs to, and which stages are done.

recipe.toml         the recipe, as resolved
dataset/            Parquet and a card
dataset.url         where the dataset is, if not in dataset/ (dataset_link.py)
excerpt.parquet     a few images of the dataset: all that the export and the report need of it
latents/            the dataset's latents
long_captions.jsonl the photographs whose captions are longer than the teacher reads
checkpoints/        step_000500/ ...
metrics.jsonl       the training's metrics, one line per step
samples/            step_000500.png ...
training.gif        the samples as an animation
best/               the best student so far, by its step
development.json    the metrics by which the best student was chosen
student/            the distilled network, in diffusers' format
pairs/              what the student makes of the dataset's images
pixel/              the pixel network in network/, and its trainings with checkpoints, metrics and samples
model.onnx          what ships; model.pixel.onnx is the pixel network
evaluation.json     the metrics of the model file
grid.png            input, edit, true counterfactual
report.html         all of it on one page; README.md is the model card
promotion.json      whether `latest` was moved to this run, and why
stages.json         what each output was made from
timings.json        the seconds that each stage took
processes-HOST.log  the output of a training's processes, if there were several
"""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import FiniteFloat

from distill.settings import Split
from flows.config.loading import load_recipe
from flows.config.naming import digest
from flows.config.schema import Recipe, flatten
from flows.config.toml import to_toml
from flows.run.dataset_link import read_link, write_link
from flows.run.records import Evaluation
from synth.errors import RecipeError, RunError
from synth.files import is_junk, whole_folder, write_bytes, write_text
from synth.state import parse_json, read_json, reading
from synth.urls import is_url
from synth.words import slug

if TYPE_CHECKING:
    from diffusers import ModelMixin

RUNS = Path("runs")  # in the working directory
_MAY_GROW = ("scenes.count", "training.steps")  # more images can be painted, a training can continue
_OF_THE_TRAINING = ("training.", "edits.", "photos.")  # free until training starts: no painted image depends on them
_MAY_CHANGE = (
    *("validated_on", "teacher.device", "teacher.allow_cpu", "pixel.", "export.", "evaluation.", "operations."),
    *("training.checkpoint_every", "training.checkpoint_minutes", "training.keep_checkpoints"),
    *("training.sample_every", "training.micro_batch_size"),
    *("training.gradient_checkpointing", "training.tracker", "training.patience"),
    "training.preset",  # its values are compared instead
)
_SCENES = rf"(-({'|'.join(get_args(Split))})(-[0-9]+)?)?"  # the suffix of files of metrics
_OF_METRICS = re.compile(rf"evaluation{_SCENES}\.json|grid(-pixel)?{_SCENES}\.png")


class RunFolder:
    """The paths in a run folder. Creating one reads and writes nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.toml"
        self.excerpt = path / "excerpt.parquet"
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples"
        self.film = path / "training.gif"
        self.student = path / "student"
        self.best = path / "best"
        self.development = path / "development.json"
        self.pairs = path / "pairs"
        self.pixel = path / "pixel"
        self.pixel_network = self.pixel / "network"
        self.model = path / "model.onnx"
        self.pixel_model = path / "model.pixel.onnx"
        self.evaluation = path / "evaluation.json"
        self.grid = path / "grid.png"
        self.report = path / "report.html"
        self.card = path / "README.md"
        self.stages = path / "stages.json"
        self.promotion = path / "promotion.json"
        self.timings = path / "timings.json"

    @property
    def dataset(self) -> str:
        """The dataset: the run's own, or the one that `dataset.url` names."""
        return self.named_dataset or str(self.path / "dataset")

    @property
    def named_dataset(self) -> str | None:
        """The dataset that `dataset.url` names, if there is such a file.

        Raises:
            RunError: if it is damaged.
        """
        return read_link(self.path)

    def check_dataset_is_local(self) -> None:
        """Refuse a dataset on remote storage that only the folder names: the folder may be somebody else's.

        Raises:
            RunError: if `dataset.url` names such a dataset.
        """
        url = self.named_dataset
        if url is not None and is_url(url):
            raise RunError(
                f"{self.path} names the dataset {url}, which is on remote storage: name it yourself with --data, or "
                "repeat with --trust if you trust where the folder comes from"
            )

    def use_dataset(self, url: str) -> None:
        """Use a dataset outside the run folder.

        Raises:
            RunError: if the URL has credentials in it, or is not one printable line.
            DatasetError: if no storage is known for it.
        """
        write_link(self.path, url)

    @staticmethod
    def default_path(recipe: Recipe) -> Path:
        """The folder of a run without --out.

        The same recipe gets the same folder, so that its next run finds all done. Another recipe gets another folder,
        even under the same name.
        """
        matters = {key: value for key, value in flatten(recipe).items() if not key.startswith(_MAY_CHANGE)}
        return RUNS / f"{slug(recipe.name)}-{digest(matters)[:8]}"

    @classmethod
    def check(cls, recipe: Recipe, path: Path) -> "RunFolder":
        """Check that this recipe's run can be made or resumed in a folder; nothing is written.

        A folder with a recipe and nothing made from it counts as new, whatever the system has left in it.

        Raises:
            RunError: if another recipe's run is in it (the message says what differs), or it is not a run folder.
        """
        run = cls(path)
        entries = list(path.iterdir()) if path.exists() else []
        made = [entry for entry in entries if entry != run.recipe and not is_junk(entry.name)]
        if made and run.recipe.exists():
            run._refuse_another(recipe)
        elif made:
            raise RunError(f"{path} is not a run folder, and not empty: choose another --out")
        return run

    @classmethod
    def open_or_create(cls, recipe: Recipe, path: Path) -> "RunFolder":
        """Open the folder of this recipe's run, or create it.

        Raises:
            RunError: as `check` does.
        """
        run = cls.check(recipe, path)
        path.mkdir(parents=True, exist_ok=True)
        run.adopt(recipe)
        return run

    def adopt(self, recipe: Recipe) -> None:
        """Write the recipe into the folder, if it is not there already."""
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
        """Whether a stage's outputs exist, and were made from the same inputs as now."""
        return self._stages().get(stage) == fingerprint and all(output.exists() for output in outputs)

    def fingerprint_of(self, stage: str) -> str:
        """The fingerprint of a stage's inputs when it was done; "" if it was not."""
        return self._stages().get(stage, "")

    def mark_done(self, stage: str, fingerprint: str) -> None:
        """Record the fingerprint of a stage's inputs, once its outputs are on disk."""
        stages = self._stages() | {stage: fingerprint}
        write_text(self.stages, json.dumps(stages, indent=2) + "\n")

    def evaluation_files(self, suffix: str) -> tuple[Path, Path]:
        """The evaluation and the grid of some scenes: no suffix for the recipe's own, else such as "-test-5"."""
        return self.evaluation.with_stem(f"evaluation{suffix}"), self.grid.with_stem(f"grid{suffix}")

    def pixel_grid(self, suffix: str) -> Path:
        """The grid of the pixel network on the same scenes, beside that of the student."""
        return self.grid.with_stem(f"grid-pixel{suffix}")

    def drop_metrics(self) -> bool:
        """Delete the evaluations and grids of a replaced model file; return whether there were any."""
        outdated = [file for file in self.path.iterdir() if _OF_METRICS.fullmatch(file.name)]
        for file in outdated:
            file.unlink()
        return bool(outdated)

    def sample_grids(self) -> list[Path]:
        """The sample grids of the training, oldest first; a person's copy of one is not among them."""
        grids = self.samples.glob("step_*.png")
        return sorted(path for path in grids if re.fullmatch(r"step_[0-9]+", path.stem))

    def last_work(self) -> int:
        """When a stage last made something, in ns; 0 if none did. A stage that finds all done does not count."""
        return self.stages.stat().st_mtime_ns if self.stages.exists() else 0

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Add to a stage's time, as when a training is resumed or a dataset grows."""
        timings = self.seconds()
        timings[stage] = round(timings.get(stage, 0.0) + seconds, 3)
        write_text(self.timings, json.dumps(timings, indent=2) + "\n")

    def seconds(self) -> dict[str, float]:
        """The seconds that each stage took, over all flow runs that ended."""
        if not self.timings.exists():
            return {}
        seconds: dict[str, float] = read_json(self.timings, dict[str, FiniteFloat], RunError, "delete it")
        return seconds

    def read_evaluation(self, file: Path | None = None) -> Evaluation | None:
        """Read an evaluation; None if there is none yet.

        Args:
            file: the evaluation of another split (default: the recipe's own).

        Raises:
            RunError: if the file is damaged.
        """
        file = file or self.evaluation
        if not file.exists():
            return None
        remedy = f"delete it, and `distillery evaluate student {self.path}` writes it again"
        evaluation: Evaluation = read_json(file, Evaluation, RunError, remedy)
        return evaluation

    def read_metrics(self) -> list[dict[str, float]]:
        """Read the training's metrics, a row per step, without the unfinished last line of a killed process.

        Raises:
            RunError: if the file is damaged.
        """
        if not self.metrics.exists():
            return []
        with reading(self.metrics, RunError, "delete it: the training does not need it"):
            lines = self.metrics.read_bytes().split(b"\n")[:-1]
            rows: list[dict[str, float]] = [parse_json(line, dict[str, float]) for line in lines]
            for row in rows:
                row["step"]  # a row without it is damaged
        return rows

    def _stages(self) -> dict[str, str]:
        if not self.stages.exists():
            return {}
        remedy = "delete it, and every stage runs again"
        stages: dict[str, str] = read_json(self.stages, dict[str, str], RunError, remedy)
        return stages

    def _refuse_another(self, recipe: Recipe) -> None:
        try:
            old, new = flatten(load_recipe(self.recipe)), flatten(recipe)
        except RecipeError as error:
            raise RunError(f"{self.path} holds a run that cannot be read ({error}): choose another --out") from error
        for key in [*old, *(key for key in new if key not in old)]:
            before: Any = old.get(key)
            now: Any = new.get(key)
            if before == now or key.startswith(_MAY_CHANGE):
                continue
            # Checkpoints fix the number of images that the training draws from.
            if key in _MAY_GROW and now > before and (key != "scenes.count" or not self.checkpoints.exists()):
                continue
            if key.startswith(_OF_THE_TRAINING) and not self.checkpoints.exists():
                continue
            raise RunError(
                f"{self.path} holds another run: its {key} is {before!r}, this recipe's is {now!r}; "
                "choose another --out, or delete the folder"
            )


def save_network(network: "ModelMixin", folder: Path) -> None:
    """Write the folder of a student or a pixel network, whole or not at all; it replaces an older one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as temporary:
        network.save_pretrained(temporary)
