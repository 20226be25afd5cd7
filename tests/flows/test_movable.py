"""A run folder works from any directory, after it was moved, and beside what people and their systems put into it."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_runs import SMALL, command, paint, small_recipe

from distill.training import checkpoints
from flows.config.loading import load_recipe, with_overrides
from flows.run.dataset_link import same_dataset, write_link
from flows.run.excerpt import read_excerpt
from flows.run.folder import RunFolder
from flows.run.pilot import prepare_pilot
from flows.run.promotion import latest_model, pointer_of
from flows.run.remote_copy import RemoteCopy
from flows.run.remote_state import is_run_file
from inference.export.formats import read_metadata
from synth.dataset.building import fingerprint
from synth.dataset.image_dataset import ImageDataset
from synth.errors import ExportError, RunError
from synth.teacher.identity import identify
from synth.teacher.teacher import Teacher

JUNK = (".DS_Store", "Thumbs.db", "desktop.ini", "._recipe.toml", ".directory", ".gitkeep")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, light_sd_folder: Path, prefect_server: None) -> Path:
    """A folder with teacher, dataset and run, which was started from there with relative paths."""
    folder = tmp_path_factory.mktemp("Möbel mit Räumen")
    shutil.copytree(light_sd_folder, folder / "teacher")
    before = Path.cwd()
    os.chdir(folder)
    try:
        paint(small_recipe(light_sd_folder), "sets/sofas")
        overrides = [word for override in SMALL for word in ("--set", override)]
        arguments = ["sofas", "--teacher", "teacher", *overrides, "--data", "sets/sofas", "--out", "runs/sofas"]
        result = command("run", *arguments)
        assert result.exit_code == 0, result.output
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def moved(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The project's copy elsewhere, with the original out of reach, and a working directory that is neither."""
    copy, hidden = shutil.copytree(project, tmp_path / "moved"), project.with_name("hidden")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    project.rename(hidden)
    yield copy
    hidden.rename(project)


def test_no_path_is_kept_as_typed(project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunFolder(project / "runs" / "sofas")
    assert (run.path / "dataset.url").read_text() == f"../../sets/sofas\n{project / 'sets/sofas'}\n"
    assert run.dataset == str(project / "sets" / "sofas")
    assert run.load_recipe().teacher.id == str(project / "teacher")
    assert str(run.path) not in run.report.read_text(), "the report's examples start in its own folder"
    model = run.model.stat().st_mtime_ns
    assert command("run", run.recipe, "--out", run.path).exit_code == 0, "from another directory"
    assert command("export", run.path).exit_code == 0
    assert run.model.stat().st_mtime_ns == model, "nothing is done again"


def test_run_and_dataset_move_together(moved: Path, tiny_sd_folder: Path) -> None:
    run = RunFolder(moved / "runs" / "sofas")
    assert run.dataset == str(moved / "sets" / "sofas")
    assert len(ImageDataset(run.dataset)) == 6
    assert latest_model(
        pointer_of(run.load_recipe(), run.path) if False else moved / "runs/sofas.latest.json"
    ).exists()


def test_the_run_moves_alone(project: Path, tmp_path: Path) -> None:
    run = RunFolder(shutil.copytree(project / "runs" / "sofas", tmp_path / "elsewhere"))
    assert run.dataset == str(project / "sets" / "sofas")


@pytest.mark.parametrize("int8", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_finished_student_needs_no_dataset(moved: Path, int8: bool) -> None:
    """Without dataset and latents, every format and precision is exported, from the images that the run keeps."""
    run = RunFolder(moved / "runs" / "sofas")
    images = list(ImageDataset(run.dataset))
    prompts, data = ImageDataset(run.dataset).prompts, ImageDataset(run.dataset).fingerprint
    shutil.rmtree(moved / "sets")
    shutil.rmtree(run.path / "latents")
    excerpt = read_excerpt(run)
    assert np.array_equal(excerpt.images, np.stack(images)) and excerpt.prompts == prompts
    assert (excerpt.fingerprint, excerpt.num_images, excerpt.rejects) == (data, 6, {})

    before = read_metadata(run.model)
    run.model.unlink()
    teacher = f'teacher.id="{moved / "teacher"}"'
    from flows.stages.export import write_model_files

    precisions = ["float32", "int8"] if int8 else ["float32"]
    recipe = with_overrides(run.load_recipe(), [teacher, f"export.precisions={precisions}"])
    refused = pytest.raises(ExportError, match=r"the int8 onnx file comes within .* eight bits are too few")
    with refused if int8 else nullcontext():  # calibrated, and honest about a network of noise
        write_model_files(recipe, run.path)
    assert read_metadata(run.model)["parity_cases"] == before["parity_cases"], "the same images"
    assert read_metadata(run.model)["data_fingerprint"] == data

    from flows.reports.report import write_report

    page = write_report(recipe, run.path).read_text()
    assert "Some of the 6 painted images" in page and page.count("data:image/png;base64,") == 1 + 6


def test_a_run_without_an_excerpt_takes_it_from_its_dataset(project: Path, tmp_path: Path) -> None:
    run = RunFolder(shutil.copytree(project / "runs" / "sofas", tmp_path / "old"))
    kept = run.excerpt.read_bytes()
    run.excerpt.unlink()
    assert read_excerpt(run).num_images == 6
    assert run.excerpt.read_bytes() == kept
    run.excerpt.write_bytes(kept[:100])
    with pytest.raises(RunError, match=r"excerpt\.parquet cannot be read .*: delete it"):
        read_excerpt(run)


def test_the_excerpt_travels_and_holds_no_pickle(project: Path, tmp_path: Path) -> None:
    run = project / "runs" / "sofas"
    assert is_run_file("excerpt.parquet") and not is_run_file("best/excerpt.parquet")
    RemoteCopy(str(tmp_path / "copies"), run).upload()
    (run / ".remote_copy.json").unlink()
    table = pq.read_table(tmp_path / "copies" / "sofas" / "excerpt.parquet")
    assert table.column_names == ["image", "prompt"] and table.num_rows == 6


@pytest.mark.parametrize("here", [".", "..", "runs/a/..", "link"])
def test_a_folder_by_any_name(here: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pointer, pilot and link to the dataset lie beside the folder that is meant, whatever it was called."""
    inside = tmp_path / "project" / "inside"
    (inside / "runs" / "a").mkdir(parents=True)
    (tmp_path / "project" / "link").symlink_to(inside)
    monkeypatch.chdir(tmp_path / "project" if here == "link" else inside)
    place = Path(os.path.abspath(here))
    recipe = load_recipe("demo")
    assert pointer_of(recipe, Path(here)) == place.with_name("demo.latest.json")
    (inside / "set").mkdir()
    write_link(Path(here), str(inside / "set"))
    assert RunFolder(Path(here)).dataset == str(inside / "set") or Path(RunFolder(Path(here)).dataset).samefile(
        inside / "set"
    )


def test_the_pilot_of_the_present_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "snow").mkdir()
    monkeypatch.chdir(tmp_path / "snow")
    _, folder = prepare_pilot(load_recipe("demo"), Path("."))
    assert folder == tmp_path / "snow-pilot"
    assert (folder / "dataset.url").read_text() == f"../snow/dataset\n{tmp_path}/snow/dataset\n"


@pytest.mark.parametrize("url", ["s3://bucket/sofas", "simplecache::s3://bucket/sofas", "data:,x"])
def test_a_url_stays_a_url(url: str, tmp_path: Path) -> None:
    (tmp_path / "dataset.url").write_text(f"{url}\n")
    assert RunFolder(tmp_path).dataset == url
    assert same_dataset(url, url) and not same_dataset(url, str(tmp_path))


def test_an_older_run_names_its_dataset_as_it_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sets").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "dataset.url").write_text("sets\n")
    monkeypatch.chdir(tmp_path)
    assert same_dataset(RunFolder(tmp_path / "run").dataset, str(tmp_path / "sets"))


@pytest.mark.parametrize("name", ["a\nb", "", "\x1b[2J", "x" * 5000, "\udcff"])
def test_a_name_that_no_line_holds_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not one line"):
        write_link(tmp_path, name)
    assert not (tmp_path / "dataset.url").exists()


def test_a_recipe_names_places_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("models/sd", "clip", "vae"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    given = ["teacher.id=models/sd", "scenes.filters.clip=clip", "export.vae=vae", "operations.remote_dir=copies"]
    recipe = load_recipe("sofas", given)
    filters = recipe.to_paint().filters
    places = (recipe.teacher.id, filters.clip, recipe.export.vae, recipe.operations.remote_dir)
    assert places == tuple(str(tmp_path / name) for name in ("models/sd", "clip", "vae", "copies"))
    monkeypatch.chdir("/")
    assert load_recipe("sofas", ["teacher.id=models/sd"]).teacher.id == "models/sd", "a Hub id, there"
    assert load_recipe("sofas", ["operations.remote_dir=s3://b/r"]).operations.remote_dir == "s3://b/r"


def test_a_filter_by_its_content(tiny_teacher: Teacher, tmp_path: Path) -> None:
    """A dataset that a CLIP in a folder filtered is the same after that folder was moved, and got a hidden file."""
    identities = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / f"._{name}.json").write_text(name)
        recipe = load_recipe("sofas", [f'scenes.filters.clip="{tmp_path / name}"'])
        identities.append(fingerprint(tiny_teacher, recipe.to_paint()))
    assert identities[0] == identities[1]
    (tmp_path / "there" / "config.json").write_text("{} ")
    here, there = (identify(str(tmp_path / name), RunError, "") for name in ("here", "there"))
    assert here != there


@pytest.mark.parametrize("junk", [*JUNK, "@eaDir", "lost+found", "__MACOSX"])
def test_junk_does_not_fill_a_folder(junk: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / junk).touch() if junk in JUNK else (out / junk).mkdir()
    assert RunFolder.open_or_create(load_recipe("demo"), out).load_recipe().name == "demo"
    assert (out / junk).exists()


def test_a_persons_file_does(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(RunError, match="is not a run folder, and not empty"):
        RunFolder.check(load_recipe("demo"), tmp_path)


@pytest.mark.parametrize("copy", ["step_000009_bak", "step_000009 (copy)", "step_000009.old", "._step_000009"])
def test_a_copied_checkpoint_is_nobodys(project: Path, tmp_path: Path, copy: str) -> None:
    run = RunFolder(shutil.copytree(project / "runs" / "sofas", tmp_path / "run"))
    for folder in (run.checkpoints, run.best):
        folder.mkdir(exist_ok=True)
        (folder / copy).mkdir()
    (run.samples / f"{copy}.png").touch()
    newest = checkpoints.latest(run.path)
    assert newest is not None and newest.name == "step_000004"
    assert [path.name for path in run.sample_grids()] == ["step_000004.png"]
    mine = [run.path / "evaluation-mine.json", run.path / "grid_bak.png"]
    for file in mine:
        file.touch()
    run.evaluation.write_text("{}")
    assert run.drop_metrics() and not run.evaluation.exists() and all(file.exists() for file in mine)


def test_the_best_student_leaves_a_copy_alone(tmp_path: Path, tiny_teacher: Teacher, tiny_sd_folder: Path) -> None:
    from distill.settings import TrainingSettings
    from distill.students import new_student
    from flows.training.early_stopping import EarlyStopping

    dataset = ImageDataset(paint(small_recipe(tiny_sd_folder), tmp_path / "set"))
    recipe = small_recipe(tiny_sd_folder, "training.patience=1", "training.sample_every=1")
    run = RunFolder(tmp_path / "run")
    for name in ("step_000001_bak", "step_000001"):
        (run.best / name).mkdir(parents=True)
    student = new_student(tiny_teacher, dict.fromkeys(recipe.edits, "a sofa"), TrainingSettings(preset="short"))
    EarlyStopping(recipe, run, tiny_teacher, dataset).should_stop(2, student)
    assert sorted(path.name for path in run.best.iterdir()) == ["step_000001_bak", "step_000002"]
    assert json.loads(run.development.read_text())[0]["step"] == 2


def test_a_copied_shard_is_nobodys(project: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(project / "sets" / "sofas", tmp_path / "set")
    whole = ImageDataset(folder).fingerprint
    shutil.copy(folder / "data" / "train-00000.parquet", folder / "data" / "train-00000 (1).parquet")
    assert ImageDataset(folder).fingerprint == whole
