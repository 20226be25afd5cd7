"""Register with a Prefect server what prefect.yaml describes, and automations that restart crashed runs."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

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

from flows.orchestration.server_status import check_server
from synth.errors import RunError

_PREFECT_FILE = Path(__file__).parents[2] / "prefect.yaml"
_FINAL_STATES = ("Completed", "Failed", "Cancelled", "Crashed")
_HEARTBEAT = "prefect.flow-run.heartbeat"
_MARK_CRASHED = "distillery: runs whose process is gone have crashed"
_RESCHEDULE = "distillery: crashed runs go on"
# Both automations watch the flow runs that carry the tag "distillery", each run by itself.
_ANY_RUN = ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]})
_TAGGED = ResourceSpecification({"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.distillery"})


def deployments(
    recipes: Mapping[str, Mapping[str, Any]], prefect_file: Path = _PREFECT_FILE
) -> list[RunnerDeployment]:
    """Read the deployments of prefect.yaml for `serve`: all that they describe but the work pool.

    Args:
        recipes: name -> the resolved recipe, for the forms in the UI.
        prefect_file: another file of deployments.
    """
    entries = yaml.safe_load(prefect_file.read_text(encoding="utf-8"))["deployments"]
    return [_deployment(apply_values(entry, {"recipes": recipes})) for entry in entries]


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


def serve(recipes: Mapping[str, Mapping[str, Any]], limit: int = 1) -> None:
    """Register all deployments and run them from this process, one child process a run, until it is stopped.

    Args:
        recipes: as for `deployments`.
        limit: the maximum number of runs at a time.

    Raises:
        RunError: if no server is configured.
    """
    require_server()
    prefect_serve(*deployments(recipes), limit=limit)


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
    require_server()
    automations = [_mark_crashed(seconds), _reschedule()]
    for automation in automations:
        _delete(automation.name)
        automation.create()
    return [automation.name for automation in automations]


def _mark_crashed(seconds: int) -> Automation:
    """Mark a run as crashed that has sent no heartbeat for so many seconds."""
    return Automation(
        name=_MARK_CRASHED,
        description="Ships with dds-distillery.",
        trigger=EventTrigger(
            after={_HEARTBEAT},
            expect={_HEARTBEAT, *(f"prefect.flow-run.{state}" for state in _FINAL_STATES)},
            match=_ANY_RUN,
            match_related=_TAGGED,
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
    )


def _reschedule() -> Automation:
    """Schedule a crashed run again."""
    return Automation(
        name=_RESCHEDULE,
        description="Ships with dds-distillery.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Crashed"},
            match=_ANY_RUN,
            match_related=_TAGGED,
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
    )


def _delete(name: str) -> None:
    try:
        existing: Any = Automation.read(name=name)
    except ValueError:  # the server has none of this name
        return
    existing.delete()


def require_server() -> None:
    """Check that a Prefect server is configured, and answers.

    Raises:
        RunError: if not.
    """
    if get_current_settings().api.url is None:
        raise RunError(
            "no Prefect server is configured: start one with `prefect server start`, then run "
            "`prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api`"
        )
    check_server()
