"""How every flow begins: a process that is fit for torch, the recipe as resolved, a name for the run."""

from collections.abc import Sequence

from prefect import get_client
from prefect.context import FlowRunContext

from flows.config.loading import with_overrides
from flows.config.schema import Recipe
from flows.config.trust import check_trust
from flows.orchestration.artifacts import ignore_http_errors
from flows.orchestration.environment import prepare_worker
from synth.errors import RunError

_MAX_ATTEMPTS = 5


def resolve(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """The recipe with its changes.

    Raises:
        RecipeError: for a wrong override, or a recipe that asks for more than this process trusts.
        RunError: if the run has crashed again and again: another try would end like the last.
    """
    prepare_worker()
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None and context.flow_run.run_count > _MAX_ATTEMPTS:
        raise RunError(
            f"this run was begun {context.flow_run.run_count} times and never ended: look at the worker's log "
            "(out of memory?) and start a new run; it goes on from what is on disk"
        )
    recipe = with_overrides(recipe, overrides)
    check_trust(recipe)
    return recipe


def name_run(name: str) -> None:
    """Call the run so in the UI: a flow's own template of a name cannot know the recipe's changes."""
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        with ignore_http_errors(), get_client(sync_client=True) as client:
            client.set_flow_run_name(context.flow_run.id, name)
