"""The verb that asks the method a question."""

from pathlib import Path
from typing import Any

import click

from flows.cli.process import prepare

_NAMES = ["steps", "optimizer", "regularized-sds", "guidance-bias", "leakage", "real-images"]


@click.command()
@click.argument("name", type=click.Choice(_NAMES))
@click.argument("images", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--prompt", default="", help="For real-images: what they shall show.")
@click.option("--source", default="", help="For real-images: what they show now.")
@click.option("--guidance-scale", type=click.FloatRange(1), help="omega; the teacher's own unless said.")
@click.option("--learning-rate", type=float, help="The teacher's own unless said; 2 is the published one.")
@click.option("--num-scenes", type=click.IntRange(1), help="Drawn scenes an edit.")
@click.option("--teacher", default="miniature", show_default=True, help="miniature, a folder or a Hub id.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder; a killed study goes on."
)
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
    click.echo(f"figure  {out / 'figure.png'}")
    click.echo(f"rows    {out / 'rows.parquet'}")


VERBS = (study,)
