"""`distillery evaluate`: students and zero-shot edits against true counterfactuals."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.cli.measure.pie_bench import pie_bench
from flows.cli.options import FOLDER, refuse_without_effect, study_out_option, teacher_options
from flows.cli.recipe import recipe_of
from flows.cli.results import print_line, print_results, print_study_files, print_text
from flows.orchestration.environment import prepare

if TYPE_CHECKING:
    from flows.config.schema import Recipe
    from synth.settings import TeacherSettings


@click.group()
def evaluate() -> None:
    """Measure edits: against their true counterfactuals on drawn scenes, on photographs, or on PIE-Bench.

    \b
    distillery evaluate student runs/sofas
    distillery evaluate edits --out benchmark
    distillery evaluate pie-bench --data PIE-Bench_v1 --method dds --method sds --out pie
    """


evaluate.add_command(pie_bench)


@evaluate.command()
@click.argument("folder", type=FOLDER)
@click.option(
    "--split",
    type=click.Choice(["development", "test", "shifted"]),
    help="Use this split of the drawn world; shifted has styles never trained on. (default: the recipe's own)",
)
@click.option(
    "--num-scenes",
    type=click.IntRange(1),
    help="With --split: draw this many scenes; their metrics get files of their own. (default: the recipe's own)",
)
@click.option(
    "--zero-shot",
    type=click.IntRange(1),
    metavar="N",
    help="Compare with zero-shot methods, on N scenes of each edit.",
)
@click.option(
    "--images", type=click.Path(exists=True, path_type=Path), help="Use your own photographs: a folder of them."
)
@click.option("--source", help="With --images: say what they show; CLIP's direction needs it.")
@click.option("--lpips", is_flag=True, help='With --images: measure LPIPS; needs "dds-distillery[metrics]".')
@click.option("--clip", help="With --images: measure with this CLIP model, a Hub id or a folder.")
@click.option("--dino", help="With --images: measure with this DINO vision transformer, a Hub id or a folder.")
def student(
    folder: Path,
    split: str | None,
    num_scenes: int | None,
    zero_shot: int | None,
    images: Path | None,
    **judges: Any,
) -> None:
    """Measure the model file of the run in FOLDER, on drawn scenes or on photographs. Works for every teacher.

    Give at most one of --split, --zero-shot and --images.

    The metrics of the recipe's own split and number of scenes go into the report, the model card and the model file.
    Those of others are kept beside them, in evaluation-shifted.json or evaluation-test-5.json.

    Photographs have no true answer: look at the contact sheet, and at how much of the images' variety is left.

    \b
    distillery evaluate student runs/sofas
    distillery evaluate student runs/sofas --split shifted --num-scenes 50
    distillery evaluate student runs/sofas --zero-shot 8
    distillery evaluate student runs/sofas --images photos --source "a sofa" --clip openai/clip-vit-base-patch32
    """
    if sum(choice is not None for choice in (split, zero_shot, images)) > 1:
        raise click.UsageError("give at most one of --split, --zero-shot and --images")
    if num_scenes is not None and split is None:
        raise click.UsageError("--num-scenes has no effect without --split")
    if images is None:
        refuse_without_effect(("source", "lpips", "clip", "dino"), "without --images")
    recipe = recipe_of(folder)
    prepare()
    if images is not None:
        _measure_on_photographs(recipe, folder, images, judges)
    elif zero_shot is not None:
        from flows.evaluation.scenes import compare_with_zero_shot

        print_text(compare_with_zero_shot(recipe, folder, zero_shot))
        print_study_files(folder / "zero-shot")
    else:
        _measure_on_scenes(recipe, folder, split, num_scenes)


def _measure_on_photographs(recipe: "Recipe", folder: Path, images: Path, judges: dict[str, Any]) -> None:
    """Edit photographs, and print their metrics and where the contact sheet is."""
    from flows.evaluation import photographs

    table, missing = photographs.show_photographs(recipe, folder, images, **judges)
    print_text(f"{photographs.text_table(table)}\n")
    for line in missing:
        print_line(line)
    print_line(f"sheet   {folder / 'photographs' / 'contact_sheet.png'}")


def _measure_on_scenes(recipe: "Recipe", folder: Path, split: str | None, num_scenes: int | None) -> None:
    """Edit drawn scenes, and print their metrics; those of the recipe's own scenes go into the report, too."""
    from flows.evaluation.scenes import keep, measure_model, suffix_of
    from flows.reports.pages import write_pages
    from flows.reports.tables import text_table
    from flows.run.folder import RunFolder
    from flows.run.lock import FolderInUseError, exclusive_folder

    run = RunFolder(folder)
    measured = measure_model(recipe, folder, split=split, num_scenes=num_scenes)
    suffix = suffix_of(recipe, split, num_scenes)
    file, _ = run.evaluation_files(suffix)
    evaluation = run.read_evaluation(file) if measured is None else measured.evaluation
    try:
        with exclusive_folder(folder):
            if measured is not None:
                keep(run, measured)
            if not suffix:
                write_pages(recipe, run)
    except FolderInUseError as error:
        # Measuring waits for nobody, but only one command writes.
        assert evaluation is not None, "it was measured now or before"
        print_text(f"\n{text_table(evaluation)}\n\nnot kept in the run folder: {error}")
        return
    if not suffix:
        print_results(folder)
    elif evaluation is not None:
        print_text(f"\n{text_table(evaluation)}\n\nmetrics  {file}")


@evaluate.command()
@click.option(
    "--num-scenes",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Draw this many scenes for each edit, in each split.",
)
@study_out_option
@teacher_options
def edits(num_scenes: int, teacher: "TeacherSettings", out: Path) -> None:
    """Measure zero-shot edits: DDS and the methods it is compared with, on test and shifted scenes.

    \b
    distillery evaluate edits --out benchmark
    """
    prepare()
    import pyarrow.parquet as pq

    from distill.studies.benchmark import Benchmark, table
    from distill.studies.methods import METHODS
    from flows.evaluation.studies import run_study
    from flows.shared_teacher import open_teacher

    finding = run_study(Benchmark(METHODS, num_scenes), open_teacher(teacher), out)
    rows = pq.read_table(out / "rows.parquet").to_pylist()
    for split in ("test", "shifted"):
        print_text(f"{split}\n\n{table(rows, METHODS, split)}\n")
    print_text(finding)
    print_study_files(out)
