"""The deployments of prefect.yaml: the steps that it names, and commands to serve them and to restart crashed runs.

    prefect deploy --all                                   registers them; workers run them
    python -m flows.orchestration.deployments serve        registers them and runs them without a worker
    python -m flows.orchestration.deployments automate     lets the server restart crashed runs

prefect.yaml is the only list of the deployments.
"""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import yaml  # type: ignore[import-untyped]
from prefect import Flow
from prefect import serve as prefect_serve
from prefect.automations import Automation
from prefect.client.schemas.objects import ConcurrencyLimitConfig, StateType
from prefect.deployments.runner import RunnerDeployment
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.flows import load_flow_from_entrypoint
from prefect.schedules import Cron
from prefect.settings import get_current_settings
from prefect.types.entrypoint import EntrypointType
from prefect.utilities.templating import apply_values

from flows.command_line import OneLineErrors
from flows.config.loading import load_recipe, recipe_names
from flows.orchestration.network import bypass_proxies, check_server
from synth.errors import RunError

ROOT = Path(__file__).parents[2]
_FINAL_STATES = ("Completed", "Failed", "Cancelled", "Crashed")
_HEARTBEAT = "prefect.flow-run.heartbeat"
_MARK_CRASHED = "distillery: runs whose process is gone have crashed"
_RESCHEDULE = "distillery: crashed runs go on"


def enter_checkout() -> dict[str, str]:
    """Change to the folder that relative paths start from: DISTILLERY_HOME (default: the checkout).

    A pull step of prefect.yaml, which a worker takes before each run.
    """
    home = Path(os.environ.get("DISTILLERY_HOME", ROOT)).expanduser()
    home.mkdir(parents=True, exist_ok=True)
    os.chdir(home)
    return {"directory": str(home)}


def read_recipes() -> dict[str, dict[str, Any]]:
    """Read all resolved recipes, so that the form in the UI shows every value. A build step of prefect.yaml."""
    return {name: load_recipe(name).model_dump(mode="json") for name in recipe_names()}


def deployments(prefect_file: Path = ROOT / "prefect.yaml") -> list[RunnerDeployment]:
    """Read the deployments of prefect.yaml for `serve`: all that they describe but the work pool."""
    entries = yaml.safe_load(prefect_file.read_text(encoding="utf-8"))["deployments"]
    recipes = {"recipes": read_recipes()}
    return [_deployment(apply_values(entry, recipes)) for entry in entries]


def _deployment(entry: dict[str, Any]) -> RunnerDeployment:
    flow: Flow[..., Any] = load_flow_from_entrypoint(entry["entrypoint"], use_placeholder_flow=False)
    deployment: Any = flow.to_deployment(
        entry["name"],
        parameters=entry["parameters"],
        description=entry["description"],
        tags=entry["tags"],
        concurrency_limit=ConcurrencyLimitConfig(**entry["concurrency_limit"]),
        schedules=[
            Cron(schedule["cron"], timezone=schedule["timezone"], active=schedule["active"])
            for schedule in entry.get("schedules", [])
        ],
        entrypoint_type=EntrypointType.MODULE_PATH,  # by file path, a child would load the module twice
    )
    served: RunnerDeployment = deployment
    return served


def serve(limit: int = 1) -> None:
    """Register all deployments and run them from this process, one child process a run, until it is stopped.

    Args:
        limit: the maximum number of runs at a time.

    Raises:
        RunError: if no server is configured.
    """
    _require_server()
    os.chdir(enter_checkout()["directory"])
    prefect_serve(*deployments(), limit=limit)


def automate(seconds: int = 300) -> list[str]:
    """Create two automations on the server, replacing older ones of the same names.

    The first marks a run as crashed once it has sent no heartbeat for `seconds`: its worker or its machine is gone.
    Runs send one every 30 seconds. A server that was down for longer than `seconds` missed them and marks all runs.
    The second schedules a crashed run again, which resumes from what is on disk. `flow_run.resolve` ends a run that
    keeps crashing.

    Args:
        seconds: the silence after which a run counts as crashed.

    Returns:
        The automations' names.

    Raises:
        RunError: if no server is configured.
    """
    _require_server()
    # Both automations watch the flow runs that carry the tag "distillery", each run by itself.
    any_run = ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]})
    tagged = ResourceSpecification({"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.distillery"})
    automations = [
        Automation(
            name=_MARK_CRASHED,
            description="Ships with dds-distillery.",
            trigger=EventTrigger(
                after={_HEARTBEAT},
                expect={_HEARTBEAT, *(f"prefect.flow-run.{state}" for state in _FINAL_STATES)},
                match=any_run,
                match_related=tagged,
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=timedelta(seconds=seconds),
            ),
            actions=[
                ChangeFlowRunState(
                    state=StateType.CRASHED,
                    name="Crashed",
                    message=f"No heartbeat for {seconds} seconds: its process is gone.",
                    force=False,
                )
            ],
        ),
        Automation(
            name=_RESCHEDULE,
            description="Ships with dds-distillery.",
            trigger=EventTrigger(
                expect={"prefect.flow-run.Crashed"},
                match=any_run,
                match_related=tagged,
                for_each={"prefect.resource.id"},
                posture=Posture.Reactive,
                threshold=1,
                within=timedelta(0),
            ),
            actions=[
                ChangeFlowRunState(
                    state=StateType.SCHEDULED,
                    name="AwaitingRetry",
                    message="Crashed; resumes from what is on disk.",
                    force=True,
                )
            ],
        ),
    ]
    for automation in automations:
        _delete(automation.name)
        automation.create()
    return [automation.name for automation in automations]


def _delete(name: str) -> None:
    try:
        existing: Any = Automation.read(name=name)
    except ValueError:  # the server has none of this name
        return
    existing.delete()


def _require_server() -> None:
    if get_current_settings().api.url is None:
        raise RunError(
            "no Prefect server is configured: start one with `prefect server start`, then run "
            "`prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api`"
        )
    check_server()


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Serve the deployments of prefect.yaml without a worker, or restart crashed runs."""
    bypass_proxies()


@main.command("serve")
@click.option(
    "--limit", type=click.IntRange(1), default=1, show_default=True, help="Maximum number of runs at a time."
)
def _serve_command(limit: int) -> None:
    """Register all deployments and run them from this process, until Ctrl-C.

    \b
    python -m flows.orchestration.deployments serve
    """
    serve(limit)


@main.command("automate")
@click.option(
    "--seconds",
    type=click.IntRange(90),
    default=300,
    show_default=True,
    help="Silence after which a run counts as crashed.",
)
def _automate_command(seconds: int) -> None:
    """Let the server find runs whose process is gone, and schedule them again.

    \b
    python -m flows.orchestration.deployments automate
    """
    for name in automate(seconds):
        click.echo(name)


if __name__ == "__main__":
    main()
