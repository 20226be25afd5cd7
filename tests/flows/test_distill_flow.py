"""`distillery distill`: on photographs, as a dry run, and with --resume."""

import json
from pathlib import Path

import pytest
import skimage
from PIL import Image
from small_runs import command

from distill.students import load_student
from distill.training import checkpoints
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.importing import import_photos
from synth.settings import PhotoSettings

pytestmark = pytest.mark.usefixtures("prefect_server")
DATA = Path(skimage.__file__).parent / "data"
TRAINING = """
[training]
preset = "short"
steps = 3
batch_size = 2
checkpoint_every = 2
sample_every = 1
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name in ("coffee", "astronaut", "chelsea"):
        (folder / f"{name}.png").write_bytes((DATA / f"{name}.png").read_bytes())
    (folder / "metadata.jsonl").write_text(
        json.dumps({"file_name": "chelsea.png", "text": "a red cat"})
        + "\n"
        + json.dumps({"file_name": "coffee.png", "text": "a cup in red light"})
    )
    out = tmp_path_factory.mktemp("dataset")
    import_photos(str(folder), PhotoSettings(image_size=64), out, progress=False)
    return out


def recipe(folder: Path, teacher: Path, texts: str, edits: str, training: str = TRAINING) -> Path:
    path = folder / "mine.toml"
    head = f'name = "mine"\n[teacher]\nid = "{teacher}"\n'
    path.write_text(f"{head}[photos]\n{texts}\n[edits]\n{edits}\n{training}")
    return path


def test_photographs_with_one_pair_of_texts(photos: Path, tiny_sd_folder: Path, tmp_path: Path) -> None:
    """The empty source and one target, a compact student: from photographs to a student, a GIF and a log."""
    mine = recipe(tmp_path, tiny_sd_folder, 'source = ""', 'snow = { target = "a blue sofa" }')
    out = tmp_path / "run"
    result = command("distill", mine, "--data", photos, "--set", "training.student=compact", "--out", out)
    assert result.exit_code == 0, result.output
    assert load_student(out / "student").edits == {"snow": "a blue sofa"}
    with Image.open(out / "training.gif") as animation:
        assert animation.n_frames == 3 and animation.size == (2 * 64, 3 * 64)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert all(row["images_per_second"] > 0 and row["peak_memory_gib"] > 0 for row in rows)
    again = command("run", mine, "--out", tmp_path / "other")
    assert again.exit_code == 2 and "there is nothing to paint" in again.stderr


def test_captions_have_their_words_replaced(photos: Path, tiny_sd_folder: Path, tmp_path: Path) -> None:
    mine = recipe(tmp_path, tiny_sd_folder, "", 'blue = { red = "blue" }')
    assert sorted(ImageDataset(photos).prompts) == ["", "a cup in red light", "a red cat"]
    assert command("distill", mine, "--data", photos, "--out", tmp_path / "run").exit_code == 0
    mine = recipe(tmp_path, tiny_sd_folder, "", 'lion = { tiger = "lion" }')
    result = command("distill", mine, "--data", photos, "--out", tmp_path / "none")
    assert result.exit_code == 2 and "the edit 'lion' changes no image's text" in result.stderr


def test_a_dry_run_reports_the_cost_and_keeps_nothing(photos: Path, tiny_sd_folder: Path, tmp_path: Path) -> None:
    mine = recipe(tmp_path, tiny_sd_folder, 'source = ""', 'snow = { target = "a blue sofa" }')
    out = tmp_path / "run"
    result = command("distill", mine, "--data", photos, "--preset", "paper", "--dry-run", "--out", out)
    assert result.exit_code == 0, result.output
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert set(lines) >= {"teacher", "student", "images", "time", "memory", "disk"}
    assert "for 125000 steps of" in lines["time"], "--preset replaces all of [training]"
    assert lines["images"].startswith("3, 8.3e+04 times each")
    assert not out.exists()


def test_resume_needs_a_checkpoint(photos: Path, tiny_sd_folder: Path, tmp_path: Path) -> None:
    mine = recipe(tmp_path, tiny_sd_folder, 'source = ""', 'snow = { target = "a blue sofa" }')
    arguments = ["distill", mine, "--data", photos, "--out", tmp_path / "run"]
    refused = command(*arguments, "--resume")
    assert refused.exit_code == 2 and "no checkpoint to resume from" in refused.stderr
    assert command(*arguments).exit_code == 0
    assert command(*arguments, "--resume", "--set", "training.steps=4").exit_code == 0
    newest = checkpoints.latest(tmp_path / "run")
    assert newest is not None and newest.name == "step_000004"


def test_a_warning_names_the_remedy(photos: Path, tiny_sd_folder: Path, tmp_path: Path) -> None:
    mine = recipe(tmp_path, tiny_sd_folder, 'source = ""', 'snow = { target = "a blue sofa" }')
    still = ["distill", mine, "--data", photos, "--set", "training.learning_rate=1e-12"]
    result = command(*still, "--set", "training.learning_rate_end=1e-12", "--out", tmp_path / "still")
    assert result.exit_code == 0, result.output
    assert result.output.count("warning: snow: nothing moves (0.0% of the image changes visibly): raise the gu") == 1


def test_every_step_goes_to_the_tracker(photos: Path, tiny_sd_folder: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    mine = recipe(tmp_path, tiny_sd_folder, 'source = ""', 'snow = { target = "a blue sofa" }')
    out = tmp_path / "run"
    result = command("distill", mine, "--data", photos, "--set", "training.tracker=tensorboard", "--out", out)
    assert result.exit_code == 0, result.output
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    logged = [json.loads(line)["grad_norm"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(e.step, e.value) for e in events.Scalars("grad_norm")] == [
        (step, pytest.approx(value)) for step, value in enumerate(logged, start=1)
    ]


def test_another_size_is_refused_or_warned_of(photos: Path, tiny_sd_folder: Path, tmp_path: Path) -> None:
    painted = [*("--data", photos, "--teacher", tiny_sd_folder, "--set", "scenes.image_size=96")]
    refused = command("distill", "sofas", *painted, "--out", tmp_path / "run")
    assert refused.exit_code == 2
    assert "the dataset's images are 64 x 64, but the recipe asks for 96 x 96" in refused.stderr
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "coffee.png").write_bytes((DATA / "coffee.png").read_bytes())
    import_photos(str(tmp_path / "one"), PhotoSettings(image_size=96), tmp_path / "large", progress=False)
    mine = recipe(tmp_path, tiny_sd_folder, 'source = ""', 'snow = { target = "a blue sofa" }')
    warned = command("distill", mine, "--data", tmp_path / "large", "--out", tmp_path / "photos")
    assert warned.exit_code == 0 and "the images are 96 x 96, but" in warned.output


def test_a_missing_tracker_is_refused_in_one_line(
    photos: Path, tiny_sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    mine = recipe(tmp_path, tiny_sd_folder, 'source = ""', 'snow = { target = "a blue sofa" }')
    result = command("distill", mine, "--data", photos, "--set", "training.tracker=wandb", "--out", tmp_path / "run")
    assert result.exit_code == 2 and "training.tracker needs wandb, which is not installed" in result.stderr


def test_a_trained_run_refuses_another_dataset(photos: Path, tiny_sd_folder: Path, tmp_path: Path) -> None:
    mine, out = recipe(tmp_path, tiny_sd_folder, 'source = ""', 'snow = { target = "snow" }'), tmp_path / "run"
    assert command("distill", mine, "--data", photos, "--out", out).exit_code == 0
    (tmp_path / "others").mkdir()
    Image.effect_noise((64, 64), 50).convert("RGB").save(tmp_path / "others" / "noise.png")
    import_photos(str(tmp_path / "others"), PhotoSettings(image_size=64), tmp_path / "other", progress=False)
    refused = command("distill", mine, "--data", tmp_path / "other", "--out", out)
    assert refused.exit_code == 2 and "was trained on another dataset" in refused.stderr
    again = command("distill", mine, "--resume", "--data", photos, "--out", out)
    assert again.exit_code == 0 and "nothing to train" in again.stdout
