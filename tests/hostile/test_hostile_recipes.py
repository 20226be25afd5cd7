"""A recipe, a run folder and a flow's parameters from somebody else are data: they run nothing and reach nowhere."""

from pathlib import Path

import pytest
from small_runs import SMALL, command, small_recipe

from flows.config.loading import load_recipe
from flows.config.trust import VARIABLE, requests
from flows.orchestration.flow_run import resolve
from flows.run.folder import RunFolder
from synth.errors import RecipeError, RunError

ASKS = {
    "scenes.filters.python": '"os:getcwd"',
    "operations.remote_dir": '"s3://bucket/runs"',
    "operations.ray_address": '"ray://host:10001"',
    "operations.accelerate_config": '"machines.yaml"',
    "training.tracker": '"wandb"',
}


def recipe_file(folder: Path, key: str, value: str) -> Path:
    table, _, name = key.rpartition(".")
    path = folder / "theirs.toml"
    path.write_text(f'extends = "sofas"\nname = "theirs"\n[{table}]\n{name} = {value}\n')
    return path


@pytest.mark.parametrize("key", ASKS)
@pytest.mark.parametrize("verb", ["run", "synthesize", "distill", "preview"])
def test_a_file_asks_in_vain_on_the_command_line(tmp_path: Path, verb: str, key: str) -> None:
    theirs, out = recipe_file(tmp_path, key, ASKS[key]), tmp_path / "out"
    more = ["--data", tmp_path / "set"] if verb == "distill" else []
    result = command(verb, theirs, *more, "--out", out)
    assert result.exit_code == 2 and f"sets {key} = " in result.stderr and "--trust" in result.stderr
    assert len(result.stderr.splitlines()) == 1 and not out.exists()


@pytest.mark.parametrize("key", ASKS)
def test_the_command_line_itself_may_ask(key: str) -> None:
    from flows.cli.recipe import resolve

    resolved = resolve("sofas", (f"{key}={ASKS[key]}",), trust=False)
    assert list(requests(resolved)) == [key]


@pytest.mark.parametrize("key", ASKS)
def test_an_override_of_one_key_trusts_no_other(tmp_path: Path, key: str) -> None:
    from flows.cli.recipe import resolve

    theirs = recipe_file(tmp_path, key, ASKS[key])
    with pytest.raises(RecipeError, match=key):
        resolve(str(theirs), ("operations.processes=1", "training.steps=3"), trust=False)
    assert list(requests(resolve(str(theirs), (), trust=True))) == [key]


@pytest.mark.parametrize("key", ASKS)
def test_a_flow_takes_it_only_with_the_workers_yes(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a parameter and as an override: both come from the server."""
    asking = load_recipe("sofas", [f"{key}={ASKS[key]}"])
    with pytest.raises(RecipeError, match="DISTILLERY_TRUST=1"):
        resolve(asking, [])
    with pytest.raises(RecipeError, match="DISTILLERY_TRUST=1"):
        resolve(load_recipe("sofas"), [f"{key}={ASKS[key]}"])
    monkeypatch.setenv(VARIABLE, "1")
    assert resolve(asking, []) == asking


def test_a_run_folder_from_somebody_else_is_data(tiny_sd_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = small_recipe(tiny_sd_folder, f"operations.remote_dir={tmp_path / 'elsewhere'}")
    RunFolder.open_or_create(recipe, out)
    (out / "student").mkdir()
    result = command("export", out)
    assert result.exit_code == 2 and "sets operations.remote_dir" in result.stderr
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_s_remote_dataset_is_not_opened(tiny_sd_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    RunFolder.open_or_create(small_recipe(tiny_sd_folder), out)
    (out / "dataset.url").write_text("s3://theirs/set\n")
    overrides = [word for override in SMALL for word in ("--set", override)]
    for arguments in (["run", "sofas", "--teacher", tiny_sd_folder, *overrides, "--out", out], ["export", out]):
        result = command(*arguments)
        assert result.exit_code == 2 and "s3://theirs/set" in result.stderr, result.output
    with pytest.raises(RunError, match="has credentials in it"):
        RunFolder(out).use_dataset("s3://key:secret@bucket/set")


@pytest.mark.parametrize("content", ["", "\n", "a\nb\n", "\x1b[2J\n", "x" * 5000, "\udcff"])
def test_a_damaged_dataset_url_names_its_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "dataset.url").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(RunError, match=r"dataset\.url cannot be read"):
        _ = RunFolder(tmp_path).dataset
