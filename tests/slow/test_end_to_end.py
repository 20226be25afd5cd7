"""The README's walk with real parts: Postgres, a server, a worker, the miniature, and the commands that users type.

python -m pytest -m slow tests/slow/test_end_to_end.py
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from small_runs import SMALL
from workplace import Workplace, kill, parameter, wait_for

from synth.dataset.image_dataset import ImageDataset

pytestmark = pytest.mark.slow
TINY = [
    *SMALL,
    "scenes.num_inference_steps=8",
    "training.batch_size=1",
]  # for the miniature, which paints and is evaluated


@pytest.fixture
def manned(workplace: Workplace) -> Iterator[Workplace]:
    """A workplace with a worker."""
    worker = workplace.start_worker()
    yield workplace
    kill(worker)


def test_all_deployments_are_registered_from_the_checkout(workplace: Workplace) -> None:
    assert workplace.deployed.count("successfully created") == 7, workplace.deployed


def test_neither_a_program_nor_a_web_page_gets_in(workplace: Workplace) -> None:
    """The settings are those of the README: a password, and prefect.toml."""
    page = {"Origin": "https://evil.example"}
    assert httpx.get(f"{workplace.api}/admin/version").status_code == 401
    assert workplace.client.post("/flows/", json={"name": "evil"}, headers=page).status_code == 403
    health = httpx.get(f"{workplace.api}/health", headers=page)
    assert health.status_code == 200 and "access-control-allow-origin" not in health.headers


def test_a_run_that_a_user_starts_and_watches(manned: Workplace) -> None:
    run = ["prefect", "deployment", "run", "pipeline/sofas", *parameter("overrides", TINY), "--watch"]
    manned.type(*run)
    (out,) = (manned.home / "runs").glob("sofas-????????")
    assert (out / "report.html").exists() and (out.parent / "sofas.latest.json").exists()
    model = (out / "model.onnx").read_bytes()

    shown = manned.artifacts()
    assert shown["sofas-images"] == shown["sofas-steps"] == 100.0
    assert "## What varies" in shown["sofas-data"]
    for key in ("sofas-data", "sofas-samples", "sofas-grid"):
        assert "](data:image/jpeg;base64," in shown[key]
    assert "psnr_inside" in shown["sofas-numbers"] and "max_difference" in shown["sofas-parity"]
    assert "first model of its recipe" in shown["sofas-outcome"]
    for link, path in {"report": "report.html", "model": "model.onnx", "data-set": "dataset"}.items():
        assert (out / path).as_uri() in shown[f"sofas-{link}"]

    manned.type(*run)  # the same recipe: the same folder, and nothing to do
    assert (out / "model.onnx").read_bytes() == model
    assert f"nothing to do: the run in {out.relative_to(manned.home)} is complete" in manned.log()


def test_a_run_that_its_schedule_starts(manned: Workplace) -> None:
    """The deployment's own schedule, switched on as a user does it, and set to every minute instead of nightly."""
    overrides = [*TINY, "scenes.seed=7", "training.steps=2"]
    deployment = manned.client.get("/deployments/name/pipeline/sofas").json()
    (nightly,) = deployment["schedules"]
    assert nightly["active"] is False
    assert nightly["id"][:8] in manned.type("prefect", "deployment", "schedule", "ls", "pipeline/sofas")
    switched = datetime.now(UTC).isoformat()
    manned.type("prefect", "deployment", "schedule", "resume", "pipeline/sofas", nightly["id"])
    manned.client.patch(  # as the form in the UI does it
        f"/deployments/{deployment['id']}/schedules/{nightly['id']}",
        json={
            "active": True,
            "schedule": {"cron": "* * * * *", "timezone": "UTC"},
            "parameters": {"overrides": overrides, "out": "by-itself"},
        },
        headers=manned.csrf_headers(),
    ).raise_for_status()

    def ended() -> bool:
        runs = [run for run in manned.runs("pipeline/sofas") if run["auto_scheduled"]]
        return any(run["state_type"] == "COMPLETED" for run in runs)

    wait_for(ended, "the scheduled run")
    manned.type("prefect", "deployment", "schedule", "pause", "pipeline/sofas", nightly["id"])
    (done, *_) = [run for run in manned.runs("pipeline/sofas") if run["state_type"] == "COMPLETED"]
    assert done["auto_scheduled"] and done["created"] > switched
    assert re.fullmatch(r"sofas in .*by-itself", done["name"])
    assert len(ImageDataset(manned.home / "by-itself" / "dataset")) == 6
    assert (manned.home / "by-itself" / "report.html").exists()


def test_one_command_replaces_the_worker(workplace: Workplace, tiny_sd_folder: Path) -> None:
    served = workplace.start("python", "-m", "flows.orchestration.deployments", "serve")
    overrides = [*SMALL, f'teacher.id="{tiny_sd_folder}"']
    run = ["prefect", "deployment", "run", "synthesize/alone", *parameter("overrides", overrides)]
    workplace.type(*run, *parameter("url", "served"), "--watch")
    assert len(ImageDataset(workplace.home / "served")) == 6
    kill(served)
    workplace.type("prefect", "--no-prompt", "deploy", "--all")  # returns the deployments to the pool
