"""Damage to what a run, its set, its copies or its teacher keep ends in one line that names the file."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pytest
import torch
from damage import damages_of, wrong_shapes
from diffusers import AutoencoderTiny
from PIL import Image
from small_runs import command, paint, small_recipe
from tiny_model import noise, properties, write_model

from distill.evaluation.counterfactuals import EditMetrics
from distill.students import CompactStudent, load_student
from distill.studies.study import Row, Study, Unit
from distill.training import checkpoints
from flows.config.naming import digest
from flows.evaluation.studies import run_study
from flows.reports.tables import markdown_table, text_table
from flows.run.excerpt import keep_excerpt, read_excerpt
from flows.run.folder import RunFolder, save_network
from flows.run.promotion import latest_model, promote, read_verdict
from flows.run.records import Metrics
from flows.run.remote_copy import RemoteCopy
from flows.run.remote_pointer import RemotePointer
from flows.training.early_stopping import EarlyStopping
from flows.training.launcher import _last_step
from flows.training.log import append_row
from inference.export.formats import read_metadata
from inference.export.tiny_vae import open_tiny_vae
from inference.runtime import ModelFileError, Translator
from synth.dataset import latents
from synth.dataset.filters import excluded_seeds
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.store import Store
from synth.errors import DistilleryError, ExportError
from synth.images.encoding import png_bytes
from synth.settings import TeacherSettings
from synth.teacher.identity import identify
from synth.teacher.teacher import Teacher

EDITS = {"red-leather": "a red leather sofa"}
DEPENDS_ON = {"data": "a set", "steps": 4}


@dataclass(frozen=True)
class Counting(Study):
    """Two pieces of a row each, which the plot and the finding read."""

    name = "counting"
    question = "How many?"

    def units(self) -> list[Unit]:
        return [{"place": place} for place in range(2)]

    def measure(self, teacher: Teacher, unit: Unit) -> list[Row]:
        return [{"place": unit["place"], "value": None if unit["place"] else 1.5}]

    def plot(self, rows: Sequence[Row]) -> Image.Image:
        return Image.new("RGB", (len([row["place"] for row in rows]), 1))

    def finding(self, rows: Sequence[Row]) -> str:
        return str([row["value"] for row in rows])


@dataclass
class Place:
    """A run folder `run` with everything beside it, and what reads it."""

    root: Path
    teacher: Teacher

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.root / "run")

    @property
    def checkpoint(self) -> Path:
        return self.run.checkpoints / "step_000004"

    def resume(self) -> int:
        student = CompactStudent(4, list(EDITS), list(EDITS.values()), (16, 16))
        averaged = CompactStudent(4, list(EDITS), list(EDITS.values()), (16, 16))
        optimizer = torch.optim.Adam(student.parameters())
        return checkpoints.restore(self.checkpoint, student, averaged, optimizer, DEPENDS_ON)

    def stop_early(self) -> bool:
        recipe = small_recipe(Path(self.teacher.name), "training.patience=2", "training.sample_every=3")
        return EarlyStopping(recipe, self.run, self.teacher, ImageDataset(self.run.dataset)).resume(self.checkpoint)

    def remote(self) -> RemoteCopy:
        return RemoteCopy(str(self.root / "copy"), self.run.path)

    def remote_pointer(self) -> RemotePointer:
        return RemotePointer(str(self.root / "copy"), self.pointer)

    @property
    def pointer(self) -> Path:
        return self.root / "sofas.latest.json"

    def show_evaluation(self) -> str:
        evaluation = self.run.read_evaluation()
        assert evaluation is not None
        return markdown_table(evaluation) + text_table(evaluation)


@pytest.fixture(scope="module")
def whole(tiny_sd_folder: Path, tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files that the readers below read, as the project writes them; without a training, in two seconds."""
    root = tmp_path_factory.mktemp("damage")
    place = Place(root, tiny_teacher)
    recipe = small_recipe(tiny_sd_folder)
    run = RunFolder.open_or_create(recipe, root / "run")
    paint(recipe, run.dataset)
    keep_excerpt(run, ImageDataset(run.dataset))
    latents.encode(tiny_teacher, ImageDataset(run.dataset), root / "latents", progress=False)
    (next((root / "latents").iterdir())).rename(root / "latents" / "0.npy")

    student = CompactStudent(4, list(EDITS), list(EDITS.values()), (16, 16))
    optimizer = torch.optim.Adam(student.parameters())
    student(torch.randn(1, 4, 8, 8), torch.tensor([0])).square().sum().backward()
    optimizer.step()
    checkpoints.save(run.path, 4, student, student, optimizer.state_dict(), DEPENDS_ON, 1)
    save_network(student, run.student)
    run.metrics.write_text("".join(json.dumps({"step": step, "loss": 0.5}) + "\n" for step in (1, 2, 3)))
    rows = [{"step": 3, "better": True, "said": "well", "psnr": 20.0, "moved": 3.0}]
    run.development.write_text(json.dumps(rows))

    write_model(run.model, properties())
    metrics = EditMetrics("red-leather", "student", "edited", 2, *(0.5 for _ in fields(EditMetrics)[4:]))
    rows_of_metrics = [asdict(metrics)]
    evaluation = {"split": "test", "num_scenes": 2, "given": {}, "edits": rows_of_metrics, "means": rows_of_metrics}
    run.evaluation.write_text(json.dumps(evaluation))
    run.mark_done("export", "made of this")
    run.add_seconds("export", 1.5)
    promote(recipe, run.path)
    place.remote().upload()
    place.remote_pointer().upload(None)
    run_study(Counting(), tiny_teacher, root / "study")
    AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    ).save_pretrained(root / "vae")
    shutil.copytree(tiny_sd_folder, root / "teacher")
    defaults = {"image_size": 64, "num_inference_steps": 2, "guidance_scale": 2.0}
    (root / "teacher" / "distillery.json").write_text(json.dumps(defaults))
    return root


def load_teacher(place: Place) -> object:
    return Teacher.load(TeacherSettings(id=str(place.root / "teacher"), device="cpu"))


READERS: dict[str, Callable[[Place], object]] = {
    "run/recipe.toml": lambda place: place.run.load_recipe(),
    "run/stages.json": lambda place: place.run.fingerprint_of("export"),
    "run/excerpt.parquet": lambda place: read_excerpt(place.run),
    "run/timings.json": lambda place: place.run.seconds(),
    "run/evaluation.json": lambda place: place.show_evaluation(),
    "run/promotion.json": lambda place: read_verdict(place.run),
    "run/development.json": lambda place: place.stop_early(),
    "run/metrics.jsonl": lambda place: (
        place.run.read_metrics(),
        _last_step(place.run.metrics),
        append_row(place.run.metrics, {"step": 9}, is_first=True),
    ),
    "run/.remote_copy.json": lambda place: place.remote(),
    "copy/run/index.json": lambda place: place.remote().download(),
    "copy/sofas.latest.json": lambda place: place.remote_pointer().download(),
    "sofas.latest.json": lambda place: latest_model(place.pointer),
    "run/model.onnx": lambda place: (read_metadata(place.run.model), Translator.load(place.run.model)),
    "run/student/config.json": lambda place: load_student(place.run.student),
    "run/student/diffusion_pytorch_model.safetensors": lambda place: load_student(place.run.student),
    "run/dataset/data/train-00000.parquet": lambda place: list(ImageDataset(place.run.dataset)),
    "run/checkpoints/step_000004/state.json": lambda place: (
        checkpoints.trained_on(place.checkpoint),
        place.resume(),
    ),
    "run/checkpoints/step_000004/averaged/config.json": lambda place: checkpoints.restore_student(place.checkpoint),
    "run/checkpoints/step_000004/adam.safetensors": lambda place: place.resume(),
    "run/checkpoints/step_000004/student/config.json": lambda place: place.resume(),
    "run/checkpoints/step_000004/averaged/diffusion_pytorch_model.safetensors": lambda place: place.resume(),
    "study/pieces/study.txt": lambda place: run_study(Counting(), place.teacher, place.root / "study"),
    "study/pieces/PIECE.parquet": lambda place: run_study(Counting(), place.teacher, place.root / "study"),
    "vae/config.json": lambda place: open_vae(place),
    "vae/diffusion_pytorch_model.safetensors": lambda place: open_vae(place),
    "teacher/model_index.json": load_teacher,
    "teacher/distillery.json": load_teacher,
    "teacher/unet/config.json": load_teacher,
    "teacher/vae/config.json": load_teacher,
    "teacher/scheduler/scheduler_config.json": load_teacher,
    "teacher/tokenizer/tokenizer_config.json": load_teacher,
    "teacher/text_encoder/config.json": load_teacher,
}
MAY_STAND = {
    *(("run/metrics.jsonl", how) for how in ("empty", "truncated", "garbage")),  # a kill cuts the last line short
    *((f"run/{name}", "an empty table") for name in ("stages.json", "timings.json", ".remote_copy.json")),
    ("copy/run/index.json", "an empty table"),
    ("run/development.json", "list"),
}


def open_vae(place: Place) -> object:
    identify(str(place.root / "vae"), ExportError, "name another")
    return open_tiny_vae(str(place.root / "vae"), place.teacher, noise(64, 64)[None])


@pytest.fixture
def place(whole: Path, tmp_path: Path, tiny_teacher: Teacher, request: pytest.FixtureRequest) -> Place:
    """A copy to damage, of what the test's file is among."""
    name = request.node.callspec.params["name"]
    alone = ("teacher", "vae", "study")
    folder = name.partition("/")[0]
    if folder in alone:
        shutil.copytree(whole / folder, tmp_path / "copy" / folder)
    else:
        shutil.copytree(whole, tmp_path / "copy", ignore=shutil.ignore_patterns(*alone))
    return Place(tmp_path / "copy", tiny_teacher)


def file_of(place: Place, name: str) -> Path:
    (file,) = place.root.glob(name.replace("PIECE", "000-*"))
    return file


@pytest.mark.parametrize("name", [name for name in READERS if not name.startswith("vae/")])
def test_what_is_whole_is_read(place: Place, name: str) -> None:
    READERS[name](place)


@pytest.mark.parametrize(("name", "how"), [(name, how) for name in READERS for how in damages_of(name)])
def test_a_damaged_file_is_one_line(place: Place, name: str, how: str) -> None:
    file = file_of(place, name)
    file.write_bytes(damages_of(name)[how](file.read_bytes()))
    if (name, how) in MAY_STAND:
        READERS[name](place)
        return
    with pytest.raises((DistilleryError, ModelFileError)) as raised:
        READERS[name](place)
    message = str(raised.value)
    assert str(file.relative_to(place.root)) in message or str(file) in message
    assert "\n" not in message and len(message) < 1500


NETWORKS = ("vae/config.json", *(name for name in READERS if name.endswith("student/config.json")))
WITH_SHAPES = [
    pytest.param(name, marks=[pytest.mark.slow] if name in NETWORKS else [])  # diffusers makes a network each time
    for name in READERS
    if name.endswith(".json") and not name.startswith("teacher/")
]


@pytest.mark.parametrize("name", WITH_SHAPES)
def test_json_of_any_shape_is_read_or_refused_in_one_line(place: Place, name: str) -> None:
    file = file_of(place, name)
    content = file.read_bytes()
    num_refused = 0
    for value in wrong_shapes(json.loads(content)):
        file.write_text(json.dumps(value))
        try:
            READERS[name](place)
        except DistilleryError as error:
            num_refused += 1
            assert "\n" not in str(error) and len(str(error)) < 1500
        finally:
            file.write_bytes(content)
    assert num_refused


def test_the_rows_of_an_evaluation_are_the_benchmarks() -> None:
    assert list(Metrics.__annotations__) == [item.name for item in fields(EditMetrics)]


@pytest.mark.parametrize("url", [b"", b"\xff", b"a\nb\n", b"\x1b[2J", b"\x00"])
def test_a_damaged_address_of_the_set_is_one_line(tmp_path: Path, url: bytes) -> None:
    (tmp_path / "dataset.url").write_bytes(url)
    with pytest.raises(DistilleryError, match=r"dataset\.url"):
        _ = RunFolder(tmp_path).dataset


@pytest.mark.parametrize("line", [b"abc", b"\xff", "²".encode(), b"9" * 5000, b"-1", b"\x00"])
def test_a_damaged_list_of_vetoes_is_one_line(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "exclude.txt").write_bytes(line + b"\n")
    with pytest.raises(DistilleryError, match=r"exclude\.txt") as raised:
        excluded_seeds(Store(tmp_path))
    assert len(str(raised.value)) < 500


VERBS: dict[str, tuple[str, ...]] = {
    "run/recipe.toml": ("export", "RUN"),
    "run/stages.json": ("export", "RUN"),
    "run/evaluation.json": ("evaluate", "student", "RUN"),
    "run/excerpt.parquet": ("export", "RUN"),
    "run/model.onnx": ("inspect", "RUN/model.onnx"),
    "run/student/config.json": ("export", "RUN"),
    "teacher/unet/config.json": ("edit", "IMAGE", "--prompt", "a sofa", "--teacher", "TEACHER", "--out", "OUT"),
}


@pytest.mark.parametrize("how", ["truncated", "list"])
@pytest.mark.parametrize("name", VERBS)
def test_the_command_says_it_in_one_line(place: Place, name: str, how: str) -> None:
    image = place.root / "image.png"
    image.write_bytes(png_bytes(Image.fromarray(noise(64, 64))))
    if name == "run/evaluation.json":  # it is read where the model is measured already
        settings = small_recipe(Path(place.teacher.name)).evaluation
        made_from = digest(place.run.fingerprint_of("export"), settings.model_dump(mode="json"), settings.split)
        place.run.mark_done("evaluate", made_from)
        place.run.grid.write_bytes(image.read_bytes())
    if VERBS[name][0] == "export" and not name.endswith("stages.json"):
        place.run.stages.unlink()  # so that nothing is up to date
    file = file_of(place, name)
    file.write_bytes(damages_of(name)[how](file.read_bytes()))
    values = {"RUN": place.run.path, "TEACHER": place.root / "teacher", "IMAGE": image, "OUT": place.root / "out"}
    arguments = [
        next((word.replace(key, str(value)) for key, value in values.items() if key in word), word)
        for word in VERBS[name]
    ]
    result = command(*arguments)
    assert result.exit_code == 2, result.output
    line = result.stderr.strip().splitlines()[-1]
    assert file.name in line and len(line) < 1500
