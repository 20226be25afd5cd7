"""The verbs that measure: translators, zero-shot edits, and the method itself."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.cli.make import recipe_of, tell_results
from flows.cli.options import FOLDER, teacher_options
from flows.orchestration.environment import prepare

if TYPE_CHECKING:
    from synth.settings import TeacherSettings

_STUDIES = ["steps", "optimizer", "regularized-sds", "guidance-bias", "leakage", "real-images", "sweep", "ablations"]
_out_option = click.option("--out", type=FOLDER, required=True, help="Folder; what was killed in it goes on.")


@click.command()
@click.argument("name", type=click.Choice(_STUDIES))
@click.argument("images", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--prompt", default="", help="For real-images: what they shall show.")
@click.option("--source", default="", help="For real-images: what they show now.")
@click.option("--guidance-scale", type=click.FloatRange(1), help="omega; the teacher's own unless said.")
@click.option("--learning-rate", type=float, help="The teacher's own unless said; 2 is the published one.")
@click.option("--num-scenes", type=click.IntRange(1), help="Drawn scenes an edit.")
@click.option("--steps", "num_steps", type=click.IntRange(1), help="For ablations: of each of its trainings.")
@_out_option
@teacher_options
def study(
    name: str,
    images: tuple[Path, ...],
    prompt: str,
    source: str,
    num_scenes: int | None,
    num_steps: int | None,
    teacher: "TeacherSettings",
    out: Path,
    **settings: Any,
) -> None:
    """Repeat a study of the paper's supplement: rows.parquet, plot.png and finding.txt.

    All but real-images edit drawn scenes, whose true answers are known; IMAGES are for real-images. ablations trains
    eight students, each with one thing changed: an hour with the miniature on one core.

    \b
    distillery study guidance-bias --out studies/guidance-bias
    distillery study real-images house.jpg --source "a house" --prompt "an igloo" --teacher some/hub-id --out igloo
    """
    prepare()
    from pydantic import ValidationError

    from distill.settings import EditSettings
    from flows.evaluation.studies import make_study, run_study
    from flows.shared_teacher import open_teacher

    try:
        of_edits = EditSettings(**settings)
    except ValidationError as error:
        raise click.UsageError(f"{error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}") from None
    chosen = make_study(name, of_edits, num_scenes, images, prompt, source, out, num_steps)
    click.echo(run_study(chosen, open_teacher(teacher), out))
    _tell(out)


@click.group()
def evaluate() -> None:
    """Measure edits against their true counterfactuals, on drawn scenes.

    \b
    distillery evaluate translator runs/sofas
    distillery evaluate edits --out benchmark
    """


@evaluate.command()
@click.argument("folder", type=FOLDER)
@click.option(
    "--split",
    type=click.Choice(["development", "test", "shifted"]),
    help="Of the drawn world: shifted is in styles never trained on. The recipe's own unless said.",
)
@click.option("--num-scenes", type=click.IntRange(1), help="With --split: the recipe's own number unless said.")
@click.option(
    "--zero-shot", type=click.IntRange(1), metavar="N", help="Beside zero-shot methods, on N scenes of each edit."
)
@click.option("--images", type=click.Path(exists=True, path_type=Path), help="One's own photographs: a folder.")
@click.option("--source", help="What they show, in words; needed for CLIP's direction.")
@click.option("--lpips", is_flag=True, help='Measure LPIPS: needs "dds-distillery[metrics]".')
@click.option("--clip", help="A CLIP model's Hub id or folder.")
@click.option("--dino", help="A DINO vision transformer's Hub id or folder.")
def translator(
    folder: Path,
    split: str | None,
    num_scenes: int | None,
    zero_shot: int | None,
    images: Path | None,
    **judges: Any,
) -> None:
    """The model file of the run in FOLDER, whoever its teacher was: on drawn scenes, or on photographs.

    One of --split, --zero-shot and --images at a time.

    On photographs there is no true answer: see the contact sheet, and how much of the images' variety is left.

    \b
    distillery evaluate translator runs/sofas
    distillery evaluate translator runs/sofas --split shifted --num-scenes 50
    distillery evaluate translator runs/sofas --zero-shot 8
    distillery evaluate translator runs/sofas --images photos --source "a sofa" --clip openai/clip-vit-base-patch32
    """
    if sum(choice is not None for choice in (split, zero_shot, images)) > 1:
        raise click.UsageError("one of --split, --zero-shot and --images at a time")
    if num_scenes is not None and split is None:
        raise click.UsageError("--num-scenes goes with --split")
    recipe = recipe_of(folder)
    prepare()
    if images is not None:
        from flows.evaluation import photographs

        table, missing = photographs.show_photographs(recipe, folder, images, **judges)
        click.echo(f"{photographs.text_table(table)}\n")
        for line in missing:
            click.echo(line)
        click.echo(f"sheet   {folder / 'photographs' / 'contact_sheet.png'}")
        return
    if zero_shot is not None:
        from flows.evaluation.scenes import compare_with_zero_shot

        click.echo(compare_with_zero_shot(recipe, folder, zero_shot))
        _tell(folder / "zero-shot")
        return
    from flows.evaluation.scenes import evaluate_model as measure
    from flows.reports.report import write_report
    from flows.reports.tables import text_table
    from flows.run.folder import RunFolder

    run = RunFolder(folder)
    metrics = measure(recipe, folder, split=split, num_scenes=num_scenes)
    if metrics == run.evaluation:
        write_report(recipe, folder)
        tell_results(folder)
    elif (evaluation := run.read_evaluation(metrics)) is not None:
        click.echo(f"\n{text_table(evaluation)}\n\nmetrics  {metrics}")


@evaluate.command()
@click.option("--num-scenes", type=click.IntRange(1), default=8, show_default=True, help="An edit, in each split.")
@_out_option
@teacher_options
def edits(num_scenes: int, teacher: "TeacherSettings", out: Path) -> None:
    """Zero-shot edits: DDS and what it is compared with, on test and shifted scenes.

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
        click.echo(f"{split}\n\n{table(rows, METHODS, split)}\n")
    click.echo(finding)
    _tell(out)


def _tell(out: Path) -> None:
    click.echo(f"plot  {out / 'plot.png'}")
    click.echo(f"rows  {out / 'rows.parquet'}")


VERBS = study, evaluate
