"""The verbs that measure: translators, zero-shot edits, and the method itself."""

from pathlib import Path
from typing import Any

import click

from flows.cli.make import FOLDER, recipe_of, tell_results
from flows.process import prepare

_STUDIES = ["steps", "optimizer", "regularized-sds", "guidance-bias", "leakage", "real-images", "sweep"]
_teacher_option = click.option(
    "--teacher", default="miniature", show_default=True, help="miniature, a folder or a Hub id."
)

_out_option = click.option("--out", type=FOLDER, required=True, help="Folder; what was killed in it goes on.")


@click.command()
@click.argument("name", type=click.Choice(_STUDIES))
@click.argument("images", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--prompt", default="", help="For real-images: what they shall show.")
@click.option("--source", default="", help="For real-images: what they show now.")
@click.option("--guidance-scale", type=click.FloatRange(1), help="omega; the teacher's own unless said.")
@click.option("--learning-rate", type=float, help="The teacher's own unless said; 2 is the published one.")
@click.option("--num-scenes", type=click.IntRange(1), help="Drawn scenes an edit.")
@_teacher_option
@_out_option
def study(
    name: str,
    images: tuple[Path, ...],
    prompt: str,
    source: str,
    num_scenes: int | None,
    teacher: str,
    out: Path,
    **settings: Any,
) -> None:
    """Repeat a study of the paper's supplement: rows.parquet, figure.png, and a sentence of what it shows.

    All but real-images edit drawn scenes, whose true answers are known; IMAGES are for real-images.

    \b
    distillery study guidance-bias --out studies/guidance-bias
    distillery study real-images house.jpg --source "a house" --prompt "an igloo" --teacher some/hub-id --out igloo
    """
    prepare()
    from distill.settings import EditSettings
    from flows.study import make_study, run_study
    from flows.synthesize import open_teacher
    from synth.settings import TeacherSettings

    chosen = make_study(name, EditSettings(**settings), num_scenes, images, prompt, source)
    click.echo(run_study(chosen, open_teacher(TeacherSettings(id=teacher)), out))
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
def translator(folder: Path) -> None:
    """The model file of the run in FOLDER, whoever its teacher was.

    \b
    distillery evaluate translator runs/sofas
    """
    recipe = recipe_of(folder)
    prepare()
    from flows.export import evaluate as measure
    from flows.report import write_report

    measure(recipe, folder)
    write_report(recipe, folder)
    tell_results(folder)


@evaluate.command()
@click.option("--num-scenes", type=click.IntRange(1), default=8, show_default=True, help="An edit, in each split.")
@_teacher_option
@_out_option
def edits(num_scenes: int, teacher: str, out: Path) -> None:
    """Zero-shot edits: DDS and what it is compared with, on test and shifted scenes.

    \b
    distillery evaluate edits --out benchmark
    """
    prepare()
    import pyarrow.parquet as pq

    from distill.studies.benchmark import METHODS, Benchmark, table
    from flows.study import run_study
    from flows.synthesize import open_teacher
    from synth.settings import TeacherSettings

    finding = run_study(Benchmark(METHODS, num_scenes), open_teacher(TeacherSettings(id=teacher)), out)
    rows = pq.read_table(out / "rows.parquet").to_pylist()
    for split in ("test", "shifted"):
        click.echo(f"{split}\n\n{table(rows, METHODS, split)}\n")
    click.echo(finding)
    _tell(out)


def _tell(out: Path) -> None:
    click.echo(f"figure  {out / 'figure.png'}")
    click.echo(f"rows    {out / 'rows.parquet'}")


VERBS = study, evaluate
