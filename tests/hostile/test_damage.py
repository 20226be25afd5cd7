"""Damage to a finished run or its set ends in one line that names the file, whoever reads it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import command, run_command

from distill.students import load_student
from distill.training import checkpoints
from flows.run.excerpt import read_excerpt
from flows.run.folder import RunFolder
from flows.run.promotion import read_verdict
from synth.dataset.filters import excluded_seeds
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.store import Store
from synth.errors import DistilleryError

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) * 2 // 3],
    "garbage": lambda content: b"\x00\xff\xfe" * 100,
    "list": lambda content: b"[]\n",
    "null": lambda content: b"null\n",
    "deep": lambda content: b"[" * 100_000 + b"\n",
    "deep-tables": lambda content: b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"\n",
    "huge": lambda content: b'{"step": ' + b"9" * 10_000 + b"}\n",
}
MAY_STAND = {
    *(("metrics.jsonl", how) for how in ("empty", "truncated", "garbage")),  # a kill cuts the last line short
}
READERS: dict[str, Callable[[RunFolder], object]] = {
    "recipe.toml": lambda run: run.load_recipe(),
    "stages.json": lambda run: run.fingerprint_of("export"),
    "timings.json": lambda run: run.seconds(),
    "evaluation.json": lambda run: run.read_evaluation(),
    "promotion.json": lambda run: read_verdict(run),
    "metrics.jsonl": lambda run: run.read_metrics(),
    "student/config.json": lambda run: load_student(run.student),
    "student/diffusion_pytorch_model.safetensors": lambda run: load_student(run.student),
    "excerpt.parquet": lambda run: read_excerpt(run),
    "dataset/data/train-00000.parquet": lambda run: list(ImageDataset(run.dataset)),
    "checkpoints/step_000004/state.json": lambda run: checkpoints.trained_on(_newest(run)),
    "checkpoints/step_000004/averaged/config.json": lambda run: checkpoints.restore_student(_newest(run)),
}


def _newest(run: RunFolder) -> Path:
    newest = checkpoints.latest(run.path)
    assert newest is not None
    return newest


@pytest.fixture(scope="module")
def finished(tiny_sd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("damage") / "run"
    run_command(tiny_sd_folder, out)
    return out


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_one_line(finished: Path, tmp_path: Path, name: str, how: str) -> None:
    if not (finished / name).exists():
        pytest.skip("this small run has none")
    shutil.copytree(finished, tmp_path / "run")
    file = tmp_path / "run" / name
    file.write_bytes(DAMAGE[how](file.read_bytes()))
    if (name, how) in MAY_STAND:
        READERS[name](RunFolder(tmp_path / "run"))
        return
    with pytest.raises(DistilleryError, match=file.name.replace(".", r"\.")) as raised:
        READERS[name](RunFolder(tmp_path / "run"))
    assert len(str(raised.value)) < 1500


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


@pytest.mark.parametrize("name", ["stages.json", "evaluation.json", "recipe.toml", "excerpt.parquet"])
@pytest.mark.parametrize("how", ["truncated", "list"])
def test_the_command_says_it_in_one_line(finished: Path, tmp_path: Path, name: str, how: str) -> None:
    if not (finished / name).exists():
        pytest.skip("this small run has none")
    shutil.copytree(finished, tmp_path / "run")
    file = tmp_path / "run" / name
    file.write_bytes(DAMAGE[how](file.read_bytes()))
    if "parquet" in name:
        (tmp_path / "run" / "stages.json").unlink()
    verb = ("export", tmp_path / "run") if name != "evaluation.json" else ("evaluate", "student", tmp_path / "run")

    result = command(*verb)
    assert result.exit_code == 2, result.output
    assert file.name in result.stderr
    assert len(result.stderr.strip().splitlines()[-1]) < 1500
