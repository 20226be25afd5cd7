"""A run's model card: what the Hub shows, and what a user of the model must know."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from flows.config.schema import Recipe
from flows.reports.tables import file_cells, markdown_table, scenes_of
from flows.run.compressed import pixel_model
from flows.run.excerpt import read_excerpt
from flows.run.folder import RunFolder
from flows.run.records import Evaluation
from synth.files import write_text
from synth.markdown import code, python_string, table
from synth.templates import hub_licence, render_card
from synth.words import ascii_slug

_NUM_WORDS = 2  # columns of the table of files that are text
_NETWORKS = {"unet": "the teacher's own U-Net, distilled", "compact": "a small convolutional U-Net"}


def write_model_card(recipe: Recipe, out: Path, repo: str = "") -> Path:
    """Write README.md into the run folder.

    Args:
        recipe: of the run.
        out: the run folder, exported.
        repo: owner/name on the Hub, for the usage example (default: a placeholder for the owner).
    """
    from inference.runtime import Translator

    run = RunFolder(out)
    metadata = Translator.load(run.model, ["cpu"]).metadata
    evaluation = run.read_evaluation()
    lora = f", trained by LoRA of rank {recipe.training.lora_rank}" if recipe.training.lora_rank else ""
    page = render_card(
        "flows.reports",
        "model_card.md",
        _front_matter(recipe, metadata),
        name=recipe.name,
        metadata=metadata,
        edits=metadata["edits"],
        edits_table=table(("edit", "as in"), [(code(name), prompt) for name, prompt in metadata["edits"].items()]),
        has_pixel_model=pixel_model(recipe, run) is not None,
        files_table=_files_table(evaluation),
        has_grid=run.grid.exists(),
        images=_images(recipe, run),
        num_steps=recipe.training.steps,
        network=_NETWORKS[recipe.training.student] + lora,
        python_model=python_string(f"hf://{repo or f'OWNER/{ascii_slug(recipe.name)}'}"),
        python_edit=python_string(next(iter(metadata["edits"]))),
        scenes="" if evaluation is None else scenes_of(evaluation),
        metrics_table="" if evaluation is None else markdown_table(evaluation),
    )
    write_text(run.card, page)
    return run.card


def _images(recipe: Recipe, run: RunFolder) -> str:
    """What the student was trained on: all images of its dataset, which may be more than the recipe asks for."""
    if recipe.scenes is None:
        return "photographs"
    num_images = read_excerpt(run).num_images if run.excerpt.exists() else recipe.scenes.count
    return f"{num_images} painted images"


def _files_table(evaluation: Evaluation | None) -> str:
    """Both model files side by side, if two were measured."""
    files = [] if evaluation is None else file_cells(evaluation)
    return table(list(files[0]), [list(row.values()) for row in files], _NUM_WORDS) if len(files) > 1 else ""


def _front_matter(recipe: Recipe, metadata: Mapping[str, Any]) -> ModelCardData:
    teacher = recipe.teacher.id
    is_on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", teacher, re.ASCII) is not None and not Path(teacher).exists()
    return ModelCardData(
        license=hub_licence(metadata["licence"]),
        pipeline_tag="image-to-image",
        library_name="onnx",
        tags=["image-editing", "delta-denoising-score", "dds-distillery"],
        base_model=teacher if is_on_hub else None,
    )
