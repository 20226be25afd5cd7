"""`distillery compress` and the stage of a run: a pixel network from a finished student, its files, its measures."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_runs import command, run_command, small_recipe

import flows.stages.export
import flows.training.pixel
from distill.pixel import load_network, translated
from flows.config.loading import load_recipe, with_overrides
from flows.evaluation.scenes import evaluate_model
from flows.publish import _contents
from flows.reports.report import write_report
from flows.run.compressed import pixel_model
from flows.run.folder import RunFolder
from flows.run.promotion import pointer_of, promote
from flows.run.remote_state import is_run_file
from flows.stages.export import write_model_files
from inference.export.formats import read_metadata
from inference.runtime import Translator
from inference.server.served import load_models
from synth.world.readers import FactorNetwork, FactorReader

TINY = (
    *("pixel.size=small", "pixel.widths=[8, 12]", "pixel.steps=4", "pixel.batch_size=2"),
    *("pixel.checkpoint_every=2", "pixel.sample_every=2"),
)
SETTINGS = [part for override in TINY for part in ("--set", override)]


@pytest.fixture(scope="module")
def compressed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, and what the command adds to it."""
    run = tmp_path_factory.mktemp("compressed") / "sofas"
    shutil.copytree(finished, run)
    result = command("compress", run, *SETTINGS)
    assert result.exit_code == 0, result.output
    assert f"model  {run / 'model.onnx'}\npixel  {run / 'model.pixel.onnx'}\n" in result.stdout
    return run


@pytest.fixture
def copy(compressed: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(compressed, tmp_path / "run")))


def test_what_the_command_adds(compressed: Path, finished: Path) -> None:
    run = RunFolder(compressed)
    assert run.model.read_bytes() == (finished / "model.onnx").read_bytes(), "the student's file stays"
    assert load_recipe(run.recipe).pixel.widths == (8, 12)
    (training,) = run.pixel.glob("training-*")
    rows = [json.loads(line) for line in (training / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    with Image.open(training / "samples" / "step_000004.png") as samples:
        assert samples.size == ((1 + 6) * 64, 4 * 64)
    assert sorted(path.name for path in (training / "checkpoints").iterdir()) == ["step_000002", "step_000004"]
    metadata = read_metadata(run.pixel_model)
    assert metadata["name"] == "sofas-pixel" and metadata["network"] == "pixel network, small: one pass, no VAE"
    assert metadata["edits"] == read_metadata(run.model)["edits"] and metadata["training_size"] == 64
    assert "compress" in run.seconds()
    card = (compressed / "README.md").read_text()
    assert "`model.pixel.onnx` makes the same edits by a small network" in card


def test_the_file_is_the_network(compressed: Path) -> None:
    run = RunFolder(compressed)
    network, translator = load_network(run.pixel_network), Translator.load(run.pixel_model)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for number, edit in enumerate(translator.edits):
        expected = translated(network, image[None], number)[0].astype(int)
        assert np.abs(translator(image, edit).astype(int) - expected).max() <= 1
    assert run.pixel_model.stat().st_size < run.model.stat().st_size / 2


def test_a_second_command_does_nothing(copy: RunFolder) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.path.rglob("*") if path.is_file()}
    again = command("compress", copy.path)
    assert again.exit_code == 0, again.output
    assert "nothing to train" in again.stdout and "model.pixel.onnx is up to date" in again.stdout
    after = {path: path.stat().st_mtime_ns for path in copy.path.rglob("*") if path.is_file()}
    assert {path for path in after if before.get(path) != after[path]} <= {copy.path / ".lock"}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "pixel" / "network" / "diffusion_pytorch_model.safetensors")


def test_a_killed_command_goes_on(
    finished: Path, compressed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    append_row = flows.training.pixel.append_row

    def die_at_step_3(path: Path, row: dict[str, float], is_first: bool) -> None:
        if row["step"] == 3:
            raise SystemError("killed")
        append_row(path, row, is_first)

    with monkeypatch.context() as patch:
        patch.setattr(flows.training.pixel, "append_row", die_at_step_3)
        with pytest.raises(SystemError, match="killed"):
            command("compress", run, *SETTINGS)
    assert not (run / "model.pixel.onnx").exists() and not (run / "pixel" / "network").exists()
    (shard,) = run.glob("pairs/*/00000.npy")
    made = shard.stat().st_mtime_ns
    assert command("compress", run, *SETTINGS).exit_code == 0
    assert shard.stat().st_mtime_ns == made, "the pairs were there"
    expected, actual = weights(compressed), weights(run)
    assert expected.keys() == actual.keys() and all(torch.equal(actual[name], expected[name]) for name in expected)


def test_other_settings_replace_the_network(copy: RunFolder) -> None:
    (before,) = copy.pixel.glob("training-*")
    mine, half = copy.path / "model.pixel.png", copy.path / "model.pixel-float16.onnx"
    mine.write_bytes(b"a person's")
    half.write_bytes(b"of the former network")
    former = weights(copy.path)["vectors"]
    result = command("compress", copy.path, "--set", "pixel.steps=2")
    assert result.exit_code == 0, result.output
    (after,) = copy.pixel.glob("training-*")
    assert after != before and not torch.equal(weights(copy.path)["vectors"], former)
    assert not half.exists() and mine.exists() and copy.pixel_model.exists()


def test_a_new_student_makes_the_network_outdated(copy: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = copy.load_recipe()
    assert pixel_model(recipe, copy) == copy.pixel_model
    assert pixel_model(with_overrides(recipe, ["pixel.size=none"]), copy) is None
    copy.mark_done("distill", "of another training")
    assert pixel_model(recipe, copy) is None
    said: list[str] = []
    monkeypatch.setattr(flows.stages.export, "_write_student", lambda *_: None)  # it takes long, and is not at stake
    monkeypatch.setattr(flows.stages.export.logger, "info", said.append)
    before = copy.pixel_model.stat().st_mtime_ns
    write_model_files(recipe, copy.path)
    assert said == [f"there is no pixel network of this student yet: `distillery compress {copy.path}` trains one"]
    assert copy.pixel_model.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["pixel.size=none"], "has pixel.size = none: choose one with --set pixel.size=small"),
        (["pixel.size=huge"], "pixel.size: input should be 'small', 'large' or 'none'"),
        (["pixel.batch_size=1"], "pixel.batch_size: input should be greater than 1"),
        (["pixel.widths=[8]"], "pixel.widths"),
        (["scenes.count=3"], "--set scenes.count has no effect on a student that is trained already"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(finished: Path, settings: list[str], message: str) -> None:
    result = command("compress", finished, *(part for setting in settings for part in ("--set", setting)))
    assert result.exit_code == 2 and message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (finished / "pairs").exists()


def test_without_a_student_or_images_it_says_so(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(run / "student")
    result = command("compress", run, *SETTINGS)
    assert result.exit_code == 2 and "has no student yet: `distillery distill" in result.stderr
    run = Path(shutil.copytree(finished, tmp_path / "other"))
    shutil.rmtree(run / "dataset")
    result = command("compress", run, *SETTINGS)
    assert result.exit_code == 2 and "no dataset in" in result.stderr
    result = command("compress", tmp_path, *SETTINGS)
    assert result.exit_code == 2 and "is not a run folder" in result.stderr


def test_a_dry_run_keeps_nothing(finished: Path) -> None:
    before = sorted(finished.rglob("*"))
    result = command("compress", finished, "--dry-run", *SETTINGS, "--set", "pixel.steps=1000")
    assert result.exit_code == 0, result.output
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert set(lines) == {"student", "network", "pairs", "time", "disk"}
    assert lines["pairs"].startswith("2 of each of 6 images") and "for 1000 steps of" in lines["time"]
    assert sorted(finished.rglob("*")) == before


def test_both_files_are_measured_on_the_same_scenes(copy: RunFolder, tiny_sd_folder: Path) -> None:
    recipe = small_recipe(tiny_sd_folder, *TINY)
    evaluation = json.loads(evaluate_model(recipe, copy.path, FactorReader(FactorNetwork())).read_text())
    methods = {(row["method"], row["scenes"]) for row in evaluation["means"]}
    names = ("student", "pixel network", "do nothing", "vae ceiling")
    assert methods == {(name, scenes) for name in names for scenes in ("edited", "no-op")}
    student, pixel = evaluation["files"]
    assert (student["method"], student["file"]) == ("student", "model.onnx")
    assert (pixel["method"], pixel["file"]) == ("pixel network", "model.pixel.onnx")
    assert 0 < pixel["milliseconds"] < student["milliseconds"]
    assert pixel["mebibytes"] == pytest.approx(copy.pixel_model.stat().st_size / 2**20, rel=0.1)  # before the metrics
    for model in (copy.model, copy.pixel_model):
        assert read_metadata(model)["metrics"]["means"] == evaluation["means"]
    grids = [np.asarray(Image.open(path)) for path in (copy.grid, copy.path / "grid-pixel.png")]
    assert grids[0].shape == grids[1].shape and not np.array_equal(*grids)

    # Side by side in the report; the promotion goes by the student.
    page = write_report(recipe, copy.path).read_text()
    assert "<td>model.pixel.onnx</td><td>pixel network</td>" in page and "The same by the pixel network" in page
    promote(recipe, copy.path)
    assert json.loads(pointer_of(recipe, copy.path).read_text())["model"] == "run/model.onnx"

    # The file's own numbers are those that `inspect` shows.
    means = {row["method"]: row for row in evaluation["means"] if row["scenes"] == "edited"}
    shown = command("inspect", copy.pixel_model).stdout
    assert "network: pixel network, small: one pass, no VAE" in shown
    assert f"PSNR to the truth {means['pixel network']['psnr_all']:.1f} dB" in shown
    assert "network: student, compact" in command("inspect", copy.model).stdout

    # Without the pixel network the student is measured alone, and anew.
    alone = with_overrides(recipe, ["pixel.size=none"])
    evaluation = json.loads(evaluate_model(alone, copy.path, FactorReader(FactorNetwork())).read_text())
    assert [facts["file"] for facts in evaluation["files"]] == ["model.onnx"]


def test_verbs_say_what_a_file_holds(compressed: Path, tmp_path: Path) -> None:
    room = tmp_path / "room.png"
    Image.effect_noise((50, 30), 60).convert("RGB").save(room)
    for model, holds in (("model.pixel.onnx", "pixel network, small"), ("model.onnx", "student, compact")):
        made = command("translate", compressed / model, room, "--edit", "red-leather", "--out", tmp_path / model)
        assert made.exit_code == 0 and f"on CPUExecutionProvider; {holds}" in made.stderr
        with Image.open(tmp_path / model / "room_red-leather.png") as image:
            assert image.size == (50, 30)


def test_one_server_serves_both(compressed: Path) -> None:
    models = load_models([str(compressed / "model.onnx"), str(compressed / "model.pixel.onnx")])
    assert list(models) == ["sofas", "sofas-pixel"]
    for model in models.values():
        model.close()


def test_a_report_that_a_kill_left_behind_is_written(copy: RunFolder) -> None:
    """The network is trained and its file written, but the report is from before."""
    for page in (copy.report, copy.card):
        page.write_text("of the run without a pixel network")
    copy.mark_done("report", "what it was then")
    assert command("compress", copy.path, *SETTINGS).exit_code == 0
    assert "`model.pixel.onnx` makes the same" in copy.card.read_text()
    assert "<h2>Recipe</h2>" in copy.report.read_text()


def test_both_are_published(copy: RunFolder) -> None:
    names = set(_contents(copy.path, "owner/sofas", is_dataset=False))
    assert {"model.onnx", "model.pixel.onnx", "pixel/network/config.json"} <= names
    assert "pixel/network/diffusion_pytorch_model.safetensors" in names
    assert not any(name.startswith(("pairs", "pixel/training")) for name in names)


def test_the_remote_copy_takes_what_resumes(compressed: Path) -> None:
    (training,) = compressed.glob("pixel/training-*")
    files = [path.relative_to(compressed).as_posix() for path in compressed.rglob("*") if path.is_file()]
    copied = {name for name in files if is_run_file(name)}
    assert {"model.pixel.onnx", "pixel/network/config.json", f"pixel/{training.name}/metrics.jsonl"} <= copied
    assert f"pixel/{training.name}/checkpoints/step_000004/averaged/config.json" in copied
    assert not any(name.startswith("pairs/") for name in copied)
    assert not is_run_file("pixel/../../model.pixel.onnx") and not is_run_file("pixel/training-x/metrics.jsonl")


@pytest.mark.usefixtures("prefect_server")
def test_a_run_compresses_between_training_and_export(light_sd_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run_command(light_sd_folder, out, *TINY)
    assert result.exit_code == 0, result.output
    assert list(RunFolder(out).seconds()) == ["painting", "training", "compress", "export"]
    assert f"pixel  {out / 'model.pixel.onnx'}" in result.stdout
    again = run_command(light_sd_folder, out, *TINY)
    assert "nothing to do: the run in" in again.stdout


def test_its_study_needs_a_run_with_true_answers(copy: RunFolder, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "study")
    for line in (("study", "compression", *out), ("study", "steps", "--run", copy.path, *out)):
        refused = command(*line)
        assert refused.exit_code == 2
        assert "Error: compression needs --run, a run folder, and no other study takes it" in refused.stderr
    drawn = command("study", "compression", "--run", copy.path, *out)
    assert drawn.exit_code == 2 and drawn.stderr.count("\n") == 1
    assert drawn.stderr == f"error: {copy.path} edits no drawn scenes, whose true answers the study compares with\n"
    assert not (tmp_path / "study").exists()
