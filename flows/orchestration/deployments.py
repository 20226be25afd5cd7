"""The deployments of prefect.yaml: what `prefect deploy` and a worker need of them, and a way without a worker.

    prefect deploy --all                     registers them; workers run them
    python -m flows.orchestration.deployments serve        registers them and runs them itself
    python -m flows.orchestration.deployments automate     crashed runs go on by themselves

prefect.yaml is the only place that says which deployments there are.
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

from flows.config.loading import load_recipe, recipe_names
from synth.errors import RunError

ROOT = Path(__file__).parents[2]
_ENDS = ("Completed", "Failed", "Cancelled", "Crashed")
_BEAT = "prefect.flow-run.heartbeat"
_CRASHED = "distillery: runs whose process is gone have crashed"
_AGAIN = "distillery: crashed runs go on"


def enter_checkout() -> dict[str, str]:
    """A pull step of prefect.yaml: a worker goes to where relative paths begin. That is its own checkout, or the
    folder that DISTILLERY_HOME names."""
    home = Path(os.environ.get("DISTILLERY_HOME", ROOT)).expanduser()
    home.mkdir(parents=True, exist_ok=True)
    os.chdir(home)
    return {"directory": str(home)}


def read_recipes() -> dict[str, dict[str, Any]]:
    """A build step of prefect.yaml: the recipes as resolved, so that the form in the UI shows every value."""
    return {name: load_recipe(name).model_dump(mode="json") for name in recipe_names()}


def deployments(prefect_file: Path = ROOT / "prefect.yaml") -> list[RunnerDeployment]:
    """What prefect.yaml describes, for `serve`: the same names, parameters, schedules and limits; no work pool."""
    described = yaml.safe_load(prefect_file.read_text())["deployments"]
    recipes = {"recipes": read_recipes()}
    return [_deployment(apply_values(one, recipes)) for one in described]


def _deployment(described: dict[str, Any]) -> RunnerDeployment:
    flow: Flow[..., Any] = load_flow_from_entrypoint(described["entrypoint"], use_placeholder_flow=False)
    deployment: Any = flow.to_deployment(
        described["name"],
        parameters=described["parameters"],
        description=described["description"],
        tags=described["tags"],
        concurrency_limit=ConcurrencyLimitConfig(**described["concurrency_limit"]),
        schedules=[
            Cron(one["cron"], timezone=one["timezone"], active=one["active"])
            for one in described.get("schedules", [])
        ],
        entrypoint_type=EntrypointType.MODULE_PATH,  # by file, a child would load a second module of another name
    )
    served: RunnerDeployment = deployment
    return served


def serve(limit: int = 1) -> None:
    """Register all deployments and run them from this process, each run in a child of its own, until it is stopped.

    Args:
        limit: runs at a time.

    Raises:
        RunError: if no server is configured.
    """
    _require_server()
    os.chdir(enter_checkout()["directory"])
    prefect_serve(*deployments(), limit=limit)


def automate(seconds: int = 300) -> list[str]:
    """Put two automations on the server, in place of older ones of their names.

    The first marks a run as crashed that has sent no heartbeat for `seconds`: its worker, or all of its machine, is
    gone. (Runs send one every 30 seconds. A server that is down for longer than `seconds` hears none either.) The
    second schedules a crashed run again; it goes on from what is on disk. A run that crashes again and again gives up
    by itself (see `flows.orchestration.flow_run`).

    Returns:
        Their names.

    Raises:
        RunError: if no server is configured.
    """
    _require_server()
    any_run = ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]})
    ours = ResourceSpecification({"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.distillery"})
    made = [
        Automation(
            name=_CRASHED,
            description="Ships with dds-distillery.",
            trigger=EventTrigger(
                after={_BEAT},
                expect={_BEAT, *(f"prefect.flow-run.{end}" for end in _ENDS)},
                match=any_run,
                match_related=ours,
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
            name=_AGAIN,
            description="Ships with dds-distillery.",
            trigger=EventTrigger(
                expect={"prefect.flow-run.Crashed"},
                match=any_run,
                match_related=ours,
                for_each={"prefect.resource.id"},
                posture=Posture.Reactive,
                threshold=1,
                within=timedelta(0),
            ),
            actions=[
                ChangeFlowRunState(
                    state=StateType.SCHEDULED,
                    name="AwaitingRetry",
                    message="Crashed; it goes on from what is on disk.",
                    force=True,
                )
            ],
        ),
    ]
    for automation in made:
        _delete(automation.name)
        automation.create()
    return [automation.name for automation in made]


def _delete(name: str) -> None:
    try:
        there: Any = Automation.read(name=name)
    except ValueError:  # there is none of this name
        return
    there.delete()


def _require_server() -> None:
    if get_current_settings().api.url is None:
        raise RunError(
            "no Prefect server is configured: start one with `prefect server start`, and tell this machine with "
            "`prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api`"
        )


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """The deployments of prefect.yaml without a worker, and the automations that look after runs."""


@main.command("serve")
@click.option("--limit", type=click.IntRange(1), default=1, show_default=True, help="Runs at a time.")
def _serve_command(limit: int) -> None:
    """Register all deployments and run them from this process, until Ctrl-C.

    \b
    python -m flows.orchestration.deployments serve
    """
    serve(limit)


@main.command("automate")
@click.option(
    "--seconds", type=click.IntRange(90), default=300, show_default=True, help="Silence that counts as death."
)
def _automate_command(seconds: int) -> None:
    """Let the server mark runs as crashed whose process is gone, and schedule them again.

    \b
    python -m flows.orchestration.deployments automate
    """
    for name in automate(seconds):
        click.echo(name)


if __name__ == "__main__":
    main()
