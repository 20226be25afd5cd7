"""The deployments of prefect.yaml, registered with a real server and run as a worker's process runs them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.flow_engine import load_flow_and_flow_run, run_flow
from small_runs import SMALL, small_recipe

from flows.config.loading import load_recipe
from flows.config.schema import Recipe
from flows.orchestration.deployments import ROOT, enter_checkout, main, read_recipes
from flows.orchestration.registration import automate, deployments
from flows.stages.pipeline import pipeline
from synth.dataset.image_dataset import ImageDataset
from synth.errors import RunError

PIPELINES = ("sofas", "flowers", "characters", "weather")
NAMES = {f"pipeline/{name}" for name in PIPELINES} | {"synthesize/alone", "distill/alone", "export/alone"}


@pytest.fixture(scope="module")
def registered(prefect_server: None) -> dict[str, Any]:
    ids = {f"{each.flow_name}/{each.name}": each.apply() for each in deployments(read_recipes())}
    with get_client(sync_client=True) as client:
        return {name: client.read_deployment(deployment) for name, deployment in ids.items()}


def run_deployment(deployment: Any, parameters: Mapping[str, Any]) -> Any:
    """Run a deployment as a worker's process does, which gets everything from the server, as JSON."""
    with get_client(sync_client=True) as client:
        created = client.create_flow_run_from_deployment(deployment.id, parameters=dict(parameters))
    flow_run, flow = load_flow_and_flow_run(created.id)
    state = run_flow(flow, flow_run=flow_run, return_type="state")
    with get_client(sync_client=True) as client:
        return client.read_flow_run(created.id), state


def test_all_deployments_reach_the_server_as_described(registered: dict[str, Any]) -> None:
    assert set(registered) == NAMES
    for name, deployment in registered.items():
        assert deployment.description and "distillery" in deployment.tags
        # the shares of a dataset are painted in parallel; two runs of anything else would write into one folder
        assert deployment.global_concurrency_limit.limit == (64 if name == "synthesize/alone" else 1)
        assert deployment.entrypoint.startswith("flows."), "a module, which is the same in every process"
        assert deployment.enforce_parameter_schema
        if name.startswith("pipeline/"):
            recipe = name.partition("/")[2]
            assert Recipe.model_validate(deployment.parameters["recipe"]) == load_recipe(recipe)
            (nightly,) = deployment.schedules
            assert (nightly.schedule.cron, nightly.active) == ("0 2 * * *", False)


def test_the_form_knows_the_types(registered: dict[str, Any]) -> None:
    schema = registered["pipeline/sofas"].parameter_openapi_schema
    assert set(schema["properties"]) == {"recipe", "out", "data", "overrides"}
    assert schema["required"] == ["recipe"]
    definitions = schema["definitions"]
    assert definitions["TrainingSettings"]["properties"]["steps"]["type"] == "integer"
    assert definitions["TeacherSettings"]["properties"]["dtype"]["enum"] == ["auto", "float32", "bfloat16", "float16"]
    assert schema["properties"]["overrides"]["items"] == {"type": "string"}
    assert "the dataset's folder or URL" in schema["properties"]["data"]["description"]


def test_the_server_refuses_parameters_of_the_wrong_type(registered: dict[str, Any]) -> None:
    recipe = read_recipes()["sofas"]
    wrong: dict[str, dict[str, Any]] = {
        "a word for a number": {"recipe": recipe | {"training": recipe["training"] | {"steps": "many"}}},
        "no such number format": {"recipe": recipe | {"teacher": recipe["teacher"] | {"dtype": "float8"}}},
        "one text for a list of texts": {"overrides": "training.steps=4"},
    }
    accepted = []
    with get_client(sync_client=True) as client:
        for name, parameters in wrong.items():
            try:
                client.create_flow_run_from_deployment(registered["pipeline/sofas"].id, parameters=parameters)
            except PrefectHTTPStatusError as error:
                assert error.response.status_code in (409, 422)
            else:
                accepted.append(name)
    assert not accepted


def test_a_deployment_paints_by_its_overrides(
    registered: dict[str, Any], tiny_sd_folder: Path, tmp_path: Path
) -> None:
    overrides = [*SMALL, f'teacher.id="{tiny_sd_folder}"']
    painted = {"url": str(tmp_path / "set"), "overrides": overrides}
    flow_run, state = run_deployment(registered["synthesize/alone"], painted)
    assert state.is_completed(), state
    assert flow_run.name == f"paint sofas into {tmp_path / 'set'}"
    assert state.result() == 6
    assert len(ImageDataset(tmp_path / "set")) == 6
    assert run_deployment(registered["synthesize/alone"], painted)[1].result() == 0

    for rank in (1, 0):
        shares = {"url": str(tmp_path / "shared"), "overrides": overrides, "rank": rank, "world_size": 2}
        assert run_deployment(registered["synthesize/alone"], shares)[1].result() == (4, 2)[rank]
    card = tmp_path / "shared" / "README.md"
    assert "# Unfinished" in card.read_text(), "only a run with all shares writes the card"
    whole = run_deployment(registered["synthesize/alone"], painted | {"url": str(tmp_path / "shared")})
    assert whole[1].result() == 0
    for shard in sorted((tmp_path / "set" / "data").iterdir()):
        assert (tmp_path / "shared" / "data" / shard.name).read_bytes() == shard.read_bytes()
    assert "# Unfinished" not in card.read_text()
    beyond = run_deployment(registered["synthesize/alone"], shares | {"rank": 2})[1]
    assert beyond.is_failed() and "counted from 0 to 1" in beyond.message

    _, failed = run_deployment(registered["synthesize/alone"], painted | {"overrides": ["scenes.cuont=6"]})
    assert failed.is_failed()
    assert "did you mean 'count'?" in failed.message


def test_a_second_run_redoes_only_what_has_changed(
    registered: dict[str, Any],
    finished: Path,
    tiny_sd_folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing on the same recipe; only the export after a change of its settings."""
    out = shutil.copytree(finished, tmp_path / "run")
    kept = [out / "student" / "config.json", *sorted((out / "dataset/data").iterdir()), out / "metrics.jsonl"]

    def times() -> list[int]:
        return [path.stat().st_mtime_ns for path in kept]

    before, model = times(), (out / "model.onnx").read_bytes()
    report = (out / "report.html").stat().st_mtime_ns
    caplog.set_level("INFO")
    pipeline(small_recipe(tiny_sd_folder), out)
    assert f"nothing to do: the run in {out} is complete" in caplog.messages
    assert f"all 6 images are in {out / 'dataset'}: nothing to paint" in caplog.messages
    assert (out / "report.html").stat().st_mtime_ns == report
    assert (times(), (out / "model.onnx").read_bytes()) == (before, model)

    caplog.clear()
    flow_run, state = run_deployment(registered["export/alone"], {"out": str(out), "overrides": ["export.opset=21"]})
    assert state.is_completed(), state
    assert flow_run.name == f"export sofas in {out}"
    assert times() == before
    assert (out / "model.onnx").read_bytes() != model
    caplog.clear()
    run_deployment(registered["export/alone"], {"out": str(out)})
    assert f"{out / 'model.onnx'} is up to date: nothing to export" in caplog.messages


def test_the_ui_shows_the_outcome_of_a_run(finished: Path) -> None:
    with get_client(sync_client=True) as client:
        there = {artifact.key: artifact for artifact in client.read_artifacts(limit=200) if artifact.key}
    assert there["sofas-images"].data == 100.0
    assert there["sofas-steps"].data == 100.0
    assert "## What varies" in there["sofas-data"].data
    assert "](data:image/jpeg;base64," in there["sofas-data"].data
    assert "](data:image/jpeg;base64," in there["sofas-samples"].data
    assert "max_difference" in there["sofas-parity"].data
    assert "latest good" in there["sofas-outcome"].data or "takes the place" in there["sofas-outcome"].data
    for link in ("report", "model", "data-set"):
        assert there[f"sofas-{link}"].type == "markdown" and "file:///" in there[f"sofas-{link}"].data


def test_a_worker_changes_to_its_checkout_or_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISTILLERY_HOME", raising=False)
    assert enter_checkout() == {"directory": str(ROOT)} and Path.cwd() == ROOT
    monkeypatch.setenv("DISTILLERY_HOME", str(tmp_path / "new"))
    assert enter_checkout() == {"directory": str(tmp_path / "new")} and Path.cwd() == tmp_path / "new"


def test_without_a_server_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(RunError, match="prefect server start"),
    ):
        automate()


@pytest.mark.parametrize("verb", ["serve", "automate"])
def test_a_server_that_is_down_is_one_line(verb: str, tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment |= {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_HOME": str(tmp_path / "prefect")}
    command = [sys.executable, "-m", "flows.orchestration.deployments", verb]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (ran.returncode, len(ran.stderr.splitlines())) == (2, 1), ran.stderr
    assert ran.stderr.startswith("error: the Prefect server at http://127.0.0.1:9/api (the environment variable ")
    assert "does not answer" in ran.stderr


def test_without_a_server_the_command_says_so_in_one_line() -> None:
    from click.testing import CliRunner
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        ran = CliRunner().invoke(main, ["automate"])
    assert (ran.exit_code, len(ran.stderr.splitlines())) == (2, 1)
    assert ran.stderr.startswith("error: no Prefect server is configured: start one with `prefect server start`")


def test_automations_replace_those_of_the_same_name(prefect_server: None) -> None:
    names = automate()
    assert automate(seconds=90) == names
    with get_client(sync_client=True) as client:
        for name in names:
            assert len(client.read_automations_by_name(name)) == 1
