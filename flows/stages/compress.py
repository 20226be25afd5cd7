"""Third stage: compress the student into a pixel network, which needs no VAE."""

from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.config.schema import Recipe
from flows.evaluation.scenes import has_true_answers
from flows.orchestration.artifacts import artifact_key, markdown_image, show_markdown
from flows.orchestration.retries import RETRIES
from flows.run.folder import RunFolder
from flows.stages.evaluate import evaluate
from flows.stages.export import export
from flows.stages.frame import OpenRun, open_run, report, run_task, stage
from flows.training.pixel import train_pixel_network
from synth.markdown import escape


@flow(name="compress", flow_run_name="{out}")
def compress_flow(out: Path, recipe: Recipe | None = None, overrides: tuple[str, ...] = ()) -> Path:
    """Compress the student of a run into a pixel network, and write, measure and report its model file.

    Args:
        out: the run folder.
        recipe: the run's recipe (default: the one in its folder).
        overrides: keys of the recipe that differ, e.g. "pixel.size=large".

    Returns:
        The path of the pixel network's model file.
    """
    return compress_run(out, recipe or RunFolder(out).load_recipe(), overrides)


def compress_run(out: Path, recipe: Recipe, overrides: tuple[str, ...] = ()) -> Path:
    """Do what `compress_flow` does, in a flow run or without one.

    Raises:
        RunError: if the recipe wants no pixel network, or the run has no student.
    """
    with open_run("compress {name} in {out}", recipe, out, overrides, adopt=False) as run:
        compress(run)
        export(run)
        if has_true_answers(run.recipe):
            evaluate(run)
        report(run)
    return run.folder.pixel_model


def _show(run: OpenRun) -> None:
    """Show the last sample grid in the UI."""
    samples = sorted(run.folder.pixel.glob("training-*/samples/step_*.png"))
    if samples:
        name, caption = run.recipe.name, "; ".join(["input", *run.recipe.edits])
        page = f"Columns: {escape(caption)}.\n\n{markdown_image(samples[-1].read_bytes(), caption)}"
        show_markdown(artifact_key(name, "pixel"), page, f"{name}: images of the dataset, by the pixel network")


@stage("compress", _show)
def compress(run: OpenRun) -> None:
    """Train the run's pixel network to its last step."""
    run_task(compress_task.with_options(timeout_seconds=run.seconds_limit), run.recipe, run.folder.path)


@task(name="compress", cache_policy=NO_CACHE, **RETRIES)  # pairs and checkpoints are the cache
def compress_task(recipe: Recipe, out: Path) -> Path:
    """Train the pixel network."""
    run = RunFolder(out)
    network = train_pixel_network(recipe, run)
    run.adopt(recipe)  # not before it has worked: a recipe that fails must not stay in the folder
    return network
