"""How every flow run starts: it prepares its process, resolves its recipe and names itself."""

from collections.abc import Sequence

from prefect import get_client
from prefect.context import FlowRunContext

from flows.config.loading import with_overrides
from flows.config.places import anchored
from flows.config.schema import Recipe
from flows.config.trust import check_trust
from flows.orchestration.artifacts import ignore_http_errors
from flows.orchestration.environment import prepare_worker
from synth.errors import RunError

_MAX_ATTEMPTS = 5  # of one flow run, which the automations schedule again after each crash


def resolve(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Prepare this process and apply the overrides to the recipe.

    Args:
        recipe: as the flow run's parameters have it.
        overrides: keys that differ, e.g. "training.steps=200".

    Raises:
        RecipeError: for a wrong override, or a recipe that asks for more than this process trusts.
        RunError: if the flow run has crashed too often, since another attempt would end like the last.
    """
    prepare_worker()
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None and context.flow_run.run_count > _MAX_ATTEMPTS:
        raise RunError(
            f"this run was started {context.flow_run.run_count} times and never finished: check the worker's log "
            "(out of memory?), then start a new run, which resumes from what is on disk"
        )
    recipe = with_overrides(anchored(recipe), overrides)
    check_trust(recipe)
    return recipe


def name_run(name: str) -> None:
    """Rename the flow run in the UI. A flow's own name template is filled before the overrides are applied."""
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        with ignore_http_errors(), get_client(sync_client=True) as client:
            client.set_flow_run_name(context.flow_run.id, name)
