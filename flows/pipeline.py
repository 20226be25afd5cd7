"""The main job, from words to a model file: the stages, joined."""

import json
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.distill import distill_flow
from flows.export import export_flow
from flows.recipe import Recipe
from flows.report import markdown_table, write_report
from flows.run_folder import RunFolder
from flows.synthesize import synthesize_flow


@flow(name="pipeline", flow_run_name="{recipe.name}")
def pipeline(recipe: Recipe, out: Path) -> Path:
    """Paint, distil, export, measure, report. What is on disk from an earlier attempt is kept.

    Returns:
        The path of the model file.

    Raises:
        DistilleryError: in one line, for anything that a person can mend.
    """
    run = RunFolder.claim(recipe, out)
    synthesize_flow(recipe, run.dataset)
    distill_flow(recipe, out)
    model = export_flow(recipe, out)
    write_report(recipe, out)
    if run.evaluation.exists():
        create_markdown_artifact(markdown_table(json.loads(run.evaluation.read_text())), key="numbers")
    return model
