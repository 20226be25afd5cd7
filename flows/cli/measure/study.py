"""`distillery study`: a study of the paper's supplement."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.cli.options import (
    FOLDER,
    TEACHER_OPTIONS,
    refuse_without_effect,
    settings_of_options,
    study_out_option,
    teacher_options,
)
from flows.cli.recipe import recipe_of
from flows.cli.results import print_study_files, print_text
from flows.orchestration.environment import prepare

if TYPE_CHECKING:
    from synth.settings import TeacherSettings

_OF_EDITS = {"guidance_scale", "learning_rate"}
_TAKES = {
    "steps": {"num_scenes", *_OF_EDITS},
    "optimizer": {"num_scenes", *_OF_EDITS},
    "regularized-sds": {"num_scenes", *_OF_EDITS},
    "guidance-bias": {"num_scenes"},  # it optimises nothing
    "leakage": {"num_scenes", *_OF_EDITS},
    "real-images": {"images", "prompt", "source", *_OF_EDITS},
    "sweep": {"num_scenes"},  # it chooses the settings
    "ablations": {"num_scenes", "num_steps"},
    "compression": {"run", "num_scenes", "num_steps"},
}
"""Study -> those of the options below that it takes; besides --out, and the teacher's for all but compression."""


@click.command()
@click.argument("name", type=click.Choice(list(_TAKES)))
@click.argument("images", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--prompt", default="", help="For real-images: say what the edited images show.")
@click.option("--source", default="", help="For real-images: say what the images show now.")
@click.option(
    "--guidance-scale", type=click.FloatRange(1), help="Guide by this scale omega. (default: the teacher's own)"
)
@click.option(
    "--learning-rate",
    type=float,
    help="Step at this learning rate; 2 is the published one. (default: the teacher's own)",
)
@click.option(
    "--num-scenes", type=click.IntRange(1), help="Draw this many scenes for each edit. (default: the study's own)"
)
@click.option(
    "--steps",
    "num_steps",
    type=click.IntRange(1),
    help="For ablations and compression: train each network for this many steps. (default: the study's own)",
)
@click.option("--run", type=FOLDER, help="For compression: the run whose student and images are taken.")
@study_out_option
@teacher_options
def study(
    name: str,
    images: tuple[Path, ...],
    prompt: str,
    source: str,
    num_scenes: int | None,
    num_steps: int | None,
    run: Path | None,
    teacher: "TeacherSettings",
    out: Path,
    **settings: Any,
) -> None:
    """Repeat a study of the paper's supplement: writes rows.parquet, plot.png and finding.txt.

    real-images edits IMAGES; all other studies edit drawn scenes, whose true answers are known. ablations trains
    eight students, each with one thing changed: an hour with the miniature on one core. compression does the same
    with pixel networks, from the student of a run.

    \b
    distillery study guidance-bias --out studies/guidance-bias
    distillery study compression --run runs/sofas --out studies/compression
    distillery study real-images house.jpg --source "a house" --prompt "an igloo" --teacher some/hub-id --out igloo
    """
    if (name == "compression") != (run is not None):
        raise click.UsageError("compression needs --run, a run folder, and no other study takes it")
    refuse_without_effect(set().union(*_TAKES.values()) - _TAKES[name], f"on the study {name}")
    if run is not None:
        refuse_without_effect(TEACHER_OPTIONS, "on the study compression, whose teacher is the run's")
    prepare()
    from distill.settings import EditSettings
    from flows.evaluation.compression import study_compression
    from flows.evaluation.studies import make_study, run_study
    from flows.shared_teacher import open_teacher

    if run is not None:
        print_text(study_compression(recipe_of(run), run, out, num_scenes, num_steps))
        print_study_files(out)
        return
    edit_settings = settings_of_options(EditSettings, settings)
    made = make_study(name, edit_settings, num_scenes, images, prompt, source, out, num_steps)
    print_text(run_study(made, open_teacher(teacher), out))
    print_study_files(out)
