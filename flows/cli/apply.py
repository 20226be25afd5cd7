"""The verbs that change images: by text alone, or by a model file."""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.cli.options import FOLDER, teacher_options
from flows.orchestration.environment import prepare

if TYPE_CHECKING:
    from synth.settings import TeacherSettings

_provider_option = click.option(
    "--provider",
    type=click.Choice(["cuda", "coreml", "directml", "cpu"]),
    help="What to run on; the best that ONNX Runtime has here unless said.",
)


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--prompt", required=True, help="What the image shall show.")
@click.option("--source", default="", help="What it shows now; left out, the null text.")
@click.option("--method", type=click.Choice(["dds", "sds", "regularized-sds"]), default="dds", help="Which score.")
@click.option("--optimizer", type=click.Choice(["sgd", "adam"]), default="sgd", help="What takes the steps.")
@click.option(
    "--iterations", type=click.IntRange(1), default=200, show_default=True, help="400 for changes of structure."
)
@click.option("--preset", type=click.Choice(["teacher", "paper"]), default="teacher", help="Whose settings to take.")
@click.option("--learning-rate", type=float, help="Over the preset's; 2 is the published one.")
@click.option("--lambda-id", type=click.FloatRange(0), help="Of regularized-sds: the weight of its L2 term.")
@click.option(
    "--guidance-scale", type=click.FloatRange(1), help="omega, over the preset's; 7.5 is the published one."
)
@click.option(
    "--firm-threshold", type=click.FloatRange(0), help="Put small changes back: 2 spares backgrounds; 0 unless said."
)
@click.option("--seed", default=0, show_default=True, help="Of the noise.")
@click.option("--series", is_flag=True, help="Also a GIF from the input to the result.")
@click.option("--out", type=FOLDER, default=Path("edited"), show_default=True, help="Folder for the results.")
@teacher_options
def edit(
    images: tuple[Path, ...],
    prompt: str,
    source: str,
    preset: str,
    series: bool,
    teacher: "TeacherSettings",
    out: Path,
    **settings: Any,
) -> None:
    """Edit IMAGES, or all in a folder, by text alone: zero-shot DDS, no training.

    \b
    distillery edit room.png --source "a grey sofa" --prompt "a red leather sofa" --out edited
    distillery edit street.jpg --prompt "a street in the snow" --teacher some/hub-id --series
    """
    from pydantic import ValidationError

    from distill.settings import PUBLISHED_EDIT, EditSettings

    try:
        given = {key: value for key, value in settings.items() if value is not None}
        chosen = EditSettings(**(PUBLISHED_EDIT if preset == "paper" else {}) | given)
    except ValidationError as error:
        first = error.errors()[0]
        raise click.UsageError(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}") from None
    prepare()
    from flows.evaluation.zero_shot import edit_files
    from flows.shared_teacher import open_teacher

    out.mkdir(parents=True, exist_ok=True)
    for path in edit_files(open_teacher(teacher), images, prompt, source, chosen, out, series):
        click.echo(path)


@click.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True)
@click.option("--edit", required=True, help="An edit's name (see `distillery inspect`), or `all`.")
@click.option("--strength", default=1.0, show_default=True, help="0 leaves the image, 1 is the edit as trained.")
@click.option("--out", type=FOLDER, default=Path("edited"), show_default=True, help="Folder for the results.")
@_provider_option
def translate(
    model: str, images: tuple[str, ...], edit: str, strength: float, out: Path, provider: str | None
) -> None:
    """Apply an edit of MODEL, a file or hf://owner/name, to IMAGES of any size. Needs no torch.

    IMAGES are files, folders and quoted globs. Beside the results lies contact_sheet.png: each input and its edits.
    An image that cannot be read stops no other: it gets a line at the end, and the exit code is 2.

    \b
    distillery translate model.onnx room.jpg --edit red-leather
    distillery translate model.onnx photos "more/**/*.png" --edit all --strength 0.8 --out edited
    """
    from tqdm import tqdm

    from inference.runtime import Translator
    from inference.translate import ContactSheet, list_jobs, translate_all

    warnings.filterwarnings("ignore", module="PIL")  # a bad image gets its own line
    translator = Translator.load(model, [provider] if provider else None)
    edits = list(translator.edits) if edit == "all" else [edit]
    translator([], edits[0], strength)  # no image: a wrong edit or strength is told before anything is written
    jobs, problems = list_jobs(images, edits, out)
    click.echo(f"{len(jobs)} images, {len(edits)} edits, on {translator.providers[0]}", err=True)
    sheet = ContactSheet(edits)
    work = translate_all(translator, jobs, strength, sheet, problems)
    written = [path for paths in tqdm(work, total=len(jobs), unit="picture", disable=len(jobs) < 2) for path in paths]
    for path in [*written, *sheet.write(out)]:
        click.echo(path)
    for problem in problems:
        click.echo(f"error: {' '.join(problem.split())}", err=True)
    if problems:
        sys.exit(2)


def _escaped(text: object) -> str:
    """Text out of a model file for a terminal, which would obey its control characters."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in str(text)
    )


@click.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="For programs: all metadata as one JSON object.")
def inspect(model: str, as_json: bool) -> None:
    """Say what MODEL is: its edits, its teacher and licence, what it was measured on. Needs no torch.

    \b
    distillery inspect runs/demo/model.onnx
    distillery inspect hf://owner/name --json
    """
    from inference.runtime import Translator

    metadata = dict(Translator.load(model, ["cpu"]).metadata)
    if as_json:
        click.echo(json.dumps(metadata, indent=2))  # ASCII alone: nothing in it speaks to the terminal
        return
    click.echo("edits")
    for name, prompt in metadata.pop("edits").items():
        click.echo(f"  {_escaped(name)}: {_escaped(prompt)}")
    for line in _metrics_lines(metadata.pop("metrics", {})):
        click.echo(_escaped(line))
    for key, value in metadata.items():
        if isinstance(value, str | int | float):
            click.echo(f"{_escaped(key)}: {_escaped(value)}")
        else:
            click.echo(f"{_escaped(key)}: {len(value or ())} entries, which --json prints")


def _metrics_lines(metrics: Any) -> list[str]:
    """What was measured on the student, a line a row; one line where the table makes no sense."""
    lines = []
    try:
        for row in metrics.get("means", []):
            if row["method"] == "student":
                right = f"{row['right']:.0%} right" if row.get("right") is not None else "not read"
                lines.append(f"{row['scenes']} scenes, unseen: {right}, PSNR to the truth {row['psnr_all']:.1f} dB")
    except (AttributeError, KeyError, TypeError, ValueError):
        return ["metrics: not in a form that this version reads; --json prints them"]
    return lines


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 for all networks.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option(
    "--token",
    envvar="DISTILLERY_TOKEN",
    show_envvar=True,
    help="Ask clients for it; better in the environment, where no list of processes shows it.",
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="A name, beside addresses and localhost, by which it may be asked without a token; repeatable.",
)
@click.option(
    "--max-side",
    type=click.IntRange(1),
    default=16_384,
    show_default=True,
    help="Longest side of an image, in pixels.",
)
@click.option(
    "--max-aspect",
    type=click.FloatRange(1),
    default=50.0,
    show_default=True,
    help="Longer side over the shorter one.",
)
@_provider_option
def serve(
    models: tuple[str, ...],
    host: str,
    port: int,
    token: str | None,
    allowed_hosts: tuple[str, ...],
    max_side: int,
    max_aspect: float,
    provider: str | None,
) -> None:
    """Serve model files over HTTP: POST an image to /v1/translate, get it back edited. Needs no torch.

    MODEL is a file or hf://owner/name, or NAME=... to name it anew. Ctrl-C finishes what was accepted.

    \b
    distillery serve runs/sofas/model.onnx runs/flowers/model.onnx
    curl -F image=@room.jpg "http://127.0.0.1:8000/v1/translate?model=sofas&edit=red-leather" -o edited.png
    """
    from inference.server.app import create_app
    from inference.server.limits import Limits
    from inference.server.models import load_models
    from inference.server.run import listen
    from inference.server.run import serve as answer

    if token is None and "DISTILLERY_TOKEN" in os.environ:
        token = ""  # click takes an empty variable for none; who sets one means to have a token
    limits = Limits(max_side=max_side, max_aspect=max_aspect)
    with listen(host, port) as listener:  # a taken port is told before models are loaded
        translators = load_models(models, [provider] if provider else None)
        app = create_app(translators, limits, token, [host, *allowed_hosts])
        for name, translator in translators.items():
            edits = _escaped(", ".join(translator.edits))
            click.echo(f"{_escaped(name)}: {edits} (on {translator.providers[0]})", err=True)
        if token is None and host not in ("127.0.0.1", "localhost", "::1"):
            click.echo("warning: open to the network without a token: set DISTILLERY_TOKEN", err=True)
        answer(app, listener, lambda line: click.echo(line, err=True))


VERBS = edit, translate, inspect, serve
