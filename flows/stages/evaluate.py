"""Fifth stage: measure the model files on drawn scenes, whose true counterfactuals are known."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.config.schema import Recipe
from flows.evaluation.scenes import evaluate_model
from flows.orchestration.artifacts import artifact_key, markdown_image, show_markdown, show_table
from flows.orchestration.retries import RETRIES
from flows.stages.frame import OpenRun, run_task, stage


def _show(run: OpenRun) -> None:
    """Show the metrics and the grid in the UI."""
    name, folder = run.recipe.name, run.folder
    evaluation = folder.read_evaluation()
    assert evaluation is not None, "the stage has just written it"
    rows = [*evaluation["edits"], *evaluation["means"]]
    title = f"{name}: {evaluation['num_scenes']} scenes, {evaluation['split']} split"
    show_table(artifact_key(name, "numbers"), rows, title)
    caption = "input, translated, true counterfactual"
    show_markdown(artifact_key(name, "grid"), markdown_image(folder.grid.read_bytes(), caption), f"{name}: {caption}")


@stage("measuring", _show)
def evaluate(run: OpenRun) -> None:
    """Measure the run's model file on unseen drawn scenes."""
    run_task(evaluate_task.with_options(timeout_seconds=run.seconds_limit), run.recipe, run.folder.path)


@task(name="evaluate", cache_policy=NO_CACHE, **RETRIES)
def evaluate_task(recipe: Recipe, out: Path) -> Path:
    """Write the metrics and the grid."""
    return evaluate_model(recipe, out)
