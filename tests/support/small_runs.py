"""Whole runs that are small enough for a test: six painted images, four steps."""

from pathlib import Path

from click.testing import CliRunner, Result

from flows.cli import main
from flows.config.loading import load_recipe
from flows.config.schema import Recipe
from flows.shared_teacher import open_teacher
from synth.dataset.building import synthesize

SMALL = [
    *("scenes.count=6", "scenes.shard_size=4", "scenes.batch_size=2", "scenes.num_inference_steps=2"),
    *(
        "training.preset=short",
        "training.student=compact",  # a U-Net's export takes half as long again
        "training.steps=4",
        "training.batch_size=2",
        "training.checkpoint_every=2",
        "training.sample_every=4",
    ),
    *("evaluation.num_scenes=2", "evaluation.num_no_op_scenes=1", "pixel.size=none"),
]


def command(*arguments: str | Path) -> Result:
    """Run `distillery`; an exception that is not an exit is raised."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run_command(teacher: Path, out: Path, *more: str) -> Result:
    """Run `distillery run sofas` with the small settings and more overrides."""
    overrides = [argument for override in (*SMALL, *more) for argument in ("--set", override)]
    return command("run", "sofas", "--teacher", teacher, *overrides, "--out", out)


def paint(recipe: Recipe, url: str | Path) -> str:
    """Paint the recipe's dataset without Prefect; returns its URL."""
    synthesize(open_teacher(recipe.teacher), recipe.to_paint(), url, progress=False)
    return str(url)


def small_recipe(teacher: Path, *more: str) -> Recipe:
    """The recipe "sofas" with the small settings and more overrides."""
    return load_recipe("sofas", [f'teacher.id="{teacher}"', *SMALL, *more])
