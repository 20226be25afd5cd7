"""The whole flow, on a tiny pipeline of Stable Diffusion 1.5's classes, by the same code as with a real one."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_runs import SMALL, command, run_command, small_recipe
from workplace import wait_for

from flows.config.loading import load_recipe
from flows.reports.model_card import write_model_card
from flows.run.folder import RunFolder
from flows.run.remote_state import is_run_file
from flows.shared_teacher import open_teacher
from flows.training.student import check_size
from inference.runtime import Translator
from synth.dataset.image_dataset import ImageDataset


def test_a_run_leaves_everything_in_its_folder(finished: Path) -> None:
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert (finished / "checkpoints" / "step_000004").is_dir()
    with Image.open(finished / "samples" / "step_000004.png") as samples:
        assert samples.size == ((1 + 6) * 64, 4 * 64)
    page = (finished / "report.html").read_text()
    assert "red-leather" in page
    assert page.count("data:image/png;base64,") == 1 + 6  # samples, painted images
    assert not re.search(r'(src|href)="(?!data:)', page), "the page needs no other file"
    assert page.count('class="wipe"') == 6, "each edit, before and after"
    for title in ("Rejected", "Training", "The file beside PyTorch", "Time", "How to use it", "Recipe"):
        assert f"<h2>{title}</h2>" in page
    assert set(json.loads((finished / "timings.json").read_text())) == {"painting", "training", "export"}
    assert not list(finished.rglob("*.part"))
    card = (finished / "README.md").read_text()
    assert "| `red-leather` | a red leather sofa in a " in card and "- network: a small convolutional U-Net\n" in card
    with Image.open(finished / "training.gif") as animation:
        assert animation.size == samples.size


def test_the_dataset_opens_with_datasets_alone(finished: Path, tmp_path: Path) -> None:
    painted = datasets.load_dataset(str(finished / "dataset"), split="train", cache_dir=str(tmp_path))
    assert len(painted) == 6
    assert painted[0]["image"].size == (64, 64)
    assert {"slot_color", "slot_material", "prompt", "seed"} <= set(painted.column_names)


def test_the_model_file_is_used_without_torch(finished: Path, tmp_path: Path) -> None:
    model = finished / "model.onnx"
    room = tmp_path / "room.png"
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    Image.fromarray(pixels).save(room)

    result = command("translate", model, room, "--edit", "all", "--out", tmp_path / "edited")
    names = sorted(path.name for path in (tmp_path / "edited").glob("[!.]*"))
    edited_names = [f"room_{edit}.png" for edit in Translator.load(model).edits]
    assert names == sorted(["contact_sheet.png", *edited_names])
    assert [Path(line).name for line in result.stdout.split()][:6] == edited_names
    with Image.open(tmp_path / "edited" / "room_red-leather.png") as edited:
        assert edited.size == (90, 70)

    command("translate", model, room, "--edit", "red-leather", "--strength", "0", "--out", tmp_path / "same")
    with Image.open(tmp_path / "same" / "room_red-leather.png") as same:
        assert np.array_equal(np.asarray(same), pixels)

    wrong = command("translate", model, room, "--edit", "red-lether", "--out", tmp_path / "none")
    assert (wrong.exit_code, "did you mean 'red-leather'?" in wrong.stderr) == (2, True)
    (tmp_path / "other").mkdir()
    Image.fromarray(pixels).save(tmp_path / "other" / "room.png")
    twice = command(
        "translate",
        model,
        room,
        tmp_path / "other" / "room.png",
        "--edit",
        "red-leather",
        "--out",
        tmp_path / "none",
    )
    assert twice.exit_code == 0
    made = sorted(path.relative_to(tmp_path / "none").parts for path in (tmp_path / "none").glob("*/*.png"))
    assert made == [("other", "room_red-leather.png"), (tmp_path.name, "room_red-leather.png")]

    described = command("inspect", model).stdout
    assert "  blue-fabric: a blue fabric sofa in a " in described
    assert "training_size: 64" in described
    assert "validated_on: " in described


def test_a_finished_run_is_left_as_it_is(finished: Path, tiny_sd_folder: Path) -> None:
    outputs = [finished / "student" / "config.json", finished / "model.onnx", *(finished / "dataset/data").iterdir()]
    before = [path.stat().st_mtime_ns for path in outputs]
    assert run_command(tiny_sd_folder, finished).exit_code == 0
    assert [path.stat().st_mtime_ns for path in outputs] == before
    assert len((finished / "metrics.jsonl").read_text().splitlines()) == 4


def test_another_recipe_is_refused_before_anything_is_done(finished: Path, tiny_sd_folder: Path) -> None:
    result = run_command(tiny_sd_folder, finished, "training.learning_rate=0.5")
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: {finished} holds another run: its training.learning_rate is 0.001, this recipe's is 0.5; "
        "choose another --out, or delete the folder\n"
    )


def test_killed_and_resumed_stages_make_the_same_student(
    finished: Path, tiny_sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dataset grows from 2 images to 6; the training dies in its third step and resumes from its second."""
    out, painted = tmp_path / "again", tmp_path / "dataset"
    overrides = [part for override in SMALL for part in ("--set", override)]
    shared = ["sofas", "--teacher", tiny_sd_folder, *overrides]
    dry_run = command("synthesize", *shared, "--out", painted, "--dry-run").stdout
    assert "images    6 of 64 px, 2 steps" in dry_run and "shards    2 of up to 4" in dry_run
    assert not painted.exists()
    assert command("synthesize", *shared, "--set", "scenes.count=2", "--out", painted).exit_code == 0
    assert command("synthesize", *shared, "--out", painted).stdout.endswith(f"dataset  {painted}\n")
    distill = ["distill", *shared, "--data", painted, "--out", out]

    import flows.training.log

    append_row = flows.training.log.append_row

    def die_at_step_3(path: Path, row: dict[str, float], is_first: bool) -> None:
        append_row(path, row, is_first)
        if row["step"] == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(flows.training.log, "append_row", die_at_step_3)
    assert command(*distill).exit_code == 1
    assert not (out / "student").exists()
    assert f"error: {out} has no student yet: `distillery distill RECIPE" in command("export", out).stderr
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "half a li')
    monkeypatch.undo()
    assert command(*distill).exit_code == 0

    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    weights = "diffusion_pytorch_model.safetensors"
    expected, actual = load_file(finished / "student" / weights), load_file(out / "student" / weights)
    assert expected.keys() == actual.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_measured_on_drawn_scenes(
    finished: Path, tiny_sd_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from flows.cli.results import print_results
    from flows.evaluation.scenes import evaluate_model, has_true_answers
    from flows.reports.report import write_report
    from synth.world.readers import FactorNetwork, FactorReader

    recipe = small_recipe(tiny_sd_folder)
    assert not has_true_answers(recipe), "its teacher does not know the drawn world"
    assert has_true_answers(load_recipe("demo"))
    assert not has_true_answers(load_recipe("demo", ['edits.odd={color="mauve"}']))

    untrained = FactorReader(FactorNetwork())
    evaluation = json.loads(evaluate_model(recipe, finished, untrained).read_text())
    methods = {(row["method"], row["scenes"]) for row in evaluation["means"]}
    assert methods == {
        (method, scenes) for method in ("student", "do nothing", "vae ceiling") for scenes in ("edited", "no-op")
    }
    metrics = Translator.load(finished / "model.onnx").metadata["metrics"]
    assert metrics["means"] == evaluation["means"]
    with Image.open(finished / "grid.png") as grid:
        assert grid.width > 7 * 128

    page = write_report(recipe, finished).read_text()
    assert "true counterfactual" in page
    assert "<td>vae ceiling</td>" in page
    print_results(finished)
    before = (finished / "grid.png").stat().st_mtime_ns
    evaluate_model(recipe, finished, untrained)
    assert (finished / "grid.png").stat().st_mtime_ns == before


def test_a_quick_look_replaces_no_metrics(finished: Path, tiny_sd_folder: Path, tmp_path: Path) -> None:
    from flows.evaluation.scenes import evaluate_model
    from synth.world.readers import FactorNetwork, FactorReader

    run = RunFolder(Path(shutil.copytree(finished, tmp_path / "run")))
    evaluate_model(small_recipe(tiny_sd_folder), run.path, FactorReader(FactorNetwork()))
    own = (run.evaluation, run.grid, run.model, run.report, run.card)
    before = [path.read_bytes() for path in own]
    for split in ("test", "shifted"):
        result = command("evaluate", "student", run.path, "--split", split, "--num-scenes", "1")
        assert result.exit_code == 0, result.output
        file, grid = run.path / f"evaluation-{split}-1.json", run.path / f"grid-{split}-1.png"
        assert result.stdout.endswith(f"metrics  {file}\n") and grid.exists()
        quick = json.loads(file.read_text())
        assert (quick["split"], quick["num_scenes"]) == (split, 1)
    assert [path.read_bytes() for path in own] == before
    assert not (run.path / "evaluation-shifted.json").exists()
    assert is_run_file("evaluation-test-1.json") and is_run_file("grid-pixel-test-1.png")

    # Asked for by its own number, the run's evaluation is there already.
    shown = command("evaluate", "student", run.path, "--split", "test", "--num-scenes", "2").stdout
    assert "is measured already" in shown and f"grid   {run.grid}" in shown
    assert run.evaluation.read_bytes() == before[0]

    mine = [run.path / name for name in ("evaluation-test-1.png", "evaluation-test-1-mine.json", "grid-mine-1.png")]
    for path in mine:
        path.touch()
    assert run.drop_metrics() and all(path.exists() for path in mine)
    left = {path.name for path in run.path.iterdir() if path.name.startswith(("evaluation", "grid"))}
    assert left == {path.name for path in mine}


def test_the_card_counts_the_images_of_the_dataset(
    tiny_sd_folder: Path, tmp_path: Path, finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A training takes all of them, and says so where the recipe asks for fewer."""
    run = RunFolder(Path(shutil.copytree(finished, tmp_path / "run")))
    fewer = small_recipe(tiny_sd_folder, "scenes.count=5")
    assert "6 painted images" in write_model_card(fewer, run.path).read_text()
    with caplog.at_level("WARNING"):
        check_size(fewer, open_teacher(fewer.teacher), ImageDataset(run.dataset))
    assert "the dataset has 6 images, more than scenes.count=5: the student is trained on all of them" in caplog.text
    caplog.clear()
    check_size(small_recipe(tiny_sd_folder), open_teacher(fewer.teacher), ImageDataset(run.dataset))
    assert not caplog.text


def test_measured_on_photographs(finished: Path, tmp_path: Path) -> None:
    """Metrics that need no network are always measured; for each of the others a line says that it is not."""
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (70, 90, 3), np.uint8)).save(photos / f"{number}.png")
    result = command("evaluate", "student", finished, "--images", photos)
    assert result.exit_code == 0, result.output
    for metric in ("LPIPS", "CLIP scores", "DINO's structure distance"):
        assert f"{metric} is not measured" in result.stdout or f"{metric} are not measured" in result.stdout
    measured = json.loads((finished / "photographs" / "metrics.json").read_text())
    assert measured["num_images"] == 3
    for row in measured["edits"].values():
        assert set(row) == {"changed", "variety"} and 0 < row["variety"] < 2
    with Image.open(finished / "photographs" / "contact_sheet.png") as sheet:
        assert sheet.width > sheet.height
    refused = command("evaluate", "student", finished, "--images", photos, "--clip", tmp_path / "none")
    assert refused.exit_code == 2 and "cannot be opened as a CLIP model" in refused.stderr


def test_sigterm_leaves_no_server_behind(tiny_sd_folder: Path, tmp_path: Path) -> None:
    """After SIGTERM in the middle of a training, Prefect's server process and folder are gone."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    out = tmp_path / "run"
    overrides = [part for override in [*SMALL, "training.steps=100000"] for part in ("--set", override)]
    started = [sys.executable, "-c", "from flows.cli import main; main()", "run", "sofas", *overrides]
    with subprocess.Popen([*started, "--teacher", tiny_sd_folder, "--out", out], env=environment) as process:
        wait_for((out / "metrics.jsonl").exists, "the first step")
        children = psutil.Process(process.pid).children(recursive=True)
        assert children, "the server"
        try:
            _terminate(process)
        finally:
            process.kill()
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert not list(tmp_path.glob("distillery-prefect-*"))


def _terminate(process: "subprocess.Popen[bytes]") -> None:
    """Send SIGTERM until the process ends.

    Prefect turns the signal into an exception, which Python drops if it arrives while an object is finalised.
    """
    for _ in range(3):
        process.terminate()
        try:
            assert process.wait(20) != 0
            return
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError("the training goes on")
