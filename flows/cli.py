"""The command `distillery`. Every verb is thin, and what is heavy is imported inside it."""

import atexit
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from synth.cpu import prepare_cpu
from synth.errors import DistilleryError

_PIPELINE = {
    *("torch", "diffusers", "transformers", "accelerate", "huggingface_hub", "safetensors", "onnx", "onnxscript"),
    *("pyarrow", "datasets", "prefect", "skimage"),
}
_SERVE = {"fastapi", "starlette", "uvicorn", "python_multipart"}
_Verb = TypeVar("_Verb", bound=Callable[..., Any])
_FOLDER = click.Path(file_okay=False, path_type=Path)


class _OneLineErrors(click.Group):
    """Errors that a person can mend end in one line and exit code 2; all others keep their traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DistilleryError as error:
            _fail(str(error))
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in _PIPELINE | _SERVE:
                raise
            extra = "serve" if package in _SERVE else "pipeline"
            _fail(f'this needs more than the base install ({error.name}): pip install "dds-distillery[{extra}]"')
        except ValueError as error:
            runtime = sys.modules.get("inference.runtime")  # stands alone, and so do its errors
            if runtime is None or not isinstance(error, runtime.TranslatorError):
                raise
            _fail(str(error))


def _fail(message: str) -> None:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(2)


@click.group(cls=_OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="dds-distillery")
def main() -> None:
    """Describe an edit in words, get back a small network that makes it in one pass.

    \b
    distillery run demo --out runs/demo
    distillery translate runs/demo/model.onnx room.png --edit red-leather --out edited
    """


_provider_option = click.option(
    "--provider",
    type=click.Choice(["cuda", "coreml", "directml", "cpu"]),
    help="What to run on; the best that ONNX Runtime has here unless said.",
)


def _recipe_options(verb: _Verb) -> _Verb:
    """RECIPE, and the options that change it."""
    for decorate in (
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change any key of the recipe."),
        click.option("--num-images", type=click.IntRange(1), help="Short for --set scenes.count=N."),
        click.option("--teacher", help="Short for --set teacher.id=...: miniature, a folder or a Hub id."),
        click.argument("recipe"),
    ):
        verb = decorate(verb)
    return verb


@main.command()
@_recipe_options
@click.option("--out", type=_FOLDER, required=True, help="Run folder; a killed run in it goes on.")
def run(recipe: str, out: Path, teacher: str | None, num_images: int | None, overrides: tuple[str, ...]) -> None:
    """Paint, distil, export and measure: RECIPE in, model file out.

    RECIPE is `sofas`, `demo` or a TOML file. What an earlier, killed run left in --out is kept.

    \b
    distillery run sofas --teacher miniature --num-images 5000 --out runs/sofas
    distillery run sofas --set training.steps=200 --set training.seed=1 --out runs/other
    """
    resolved = _resolve(recipe, teacher, num_images, overrides)
    _prepare()
    from flows.pipeline import pipeline
    from flows.run_folder import RunFolder

    RunFolder.claim(resolved, out)  # refused before a server is started for it
    pipeline(resolved, out)
    _tell(out)


@main.command()
@click.option("--dry-run", is_flag=True, help="Paint one batch, keep nothing, and say what the set will take.")
@_recipe_options
@click.option("--out", required=True, help="Folder or URL of the data set.")
def synthesize(
    recipe: str,
    out: str,
    teacher: str | None,
    num_images: int | None,
    overrides: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Paint the training set of RECIPE alone, at --out: a folder, or a URL such as s3://bucket/sofas.

    A killed run goes on; asked for more images later, the set grows. Open preview.html to look at it and to veto.

    \b
    distillery synthesize sofas --num-images 500 --out sets/sofas
    distillery synthesize sofas --teacher some/hub-id --dry-run --out sets/sofas
    """
    resolved = _resolve(recipe, teacher, num_images, overrides)
    _prepare()
    from flows.synthesize import plan
    from flows.synthesize import synthesize as paint

    click.echo(plan(resolved) if dry_run else f"data set  {paint(resolved, out)}")


@main.command("import-photos")
@click.argument("source")
@click.option("--size", "image_size", default=512, show_default=True, help="Side of the squares they are made.")
@click.option("--fit", type=click.Choice(["crop", "pad"]), default="crop", help="Cut to a square (crop) or pad.")
@click.option("--caption-column", default="text", show_default=True, help="Of Parquet, of a data set, of metadata.")
@click.option("--image-column", default="image", show_default=True, help="Of Parquet, of a data set.")
@click.option("--split", default="train", show_default=True, help="Of a data set on the Hub.")
@click.option("--out", required=True, help="Folder or URL of the data set.")
def import_photos(source: str, out: str, **settings: Any) -> None:
    """Make a data set of one's own photographs: SOURCE is a folder, Parquet, or the Hub id of a data set.

    What cannot be used is listed in rejects/ with its reason. A folder may hold metadata.jsonl with captions.

    \b
    distillery import-photos ~/Pictures/rooms --size 512 --out sets/rooms
    """
    from pydantic import ValidationError

    from synth.settings import PhotoSettings

    try:
        chosen = PhotoSettings(**settings)
    except ValidationError as error:
        raise click.UsageError(f"--size: {error.errors()[0]['msg']}") from None
    _prepare()
    from synth.photos import import_photos as make_set

    click.echo(f"data set  {make_set(source, chosen, out)}")


@main.command()
@click.option("--data", required=True, help="The painted set: a folder or URL, as `distillery synthesize` left it.")
@_recipe_options
@click.option("--out", type=_FOLDER, required=True, help="Run folder; a killed training in it goes on.")
def distill(
    recipe: str, out: Path, teacher: str | None, num_images: int | None, overrides: tuple[str, ...], data: str
) -> None:
    """Train the student of RECIPE alone, on a set that is painted already.

    \b
    distillery distill sofas --data sets/sofas --out runs/sofas
    distillery distill sofas --data s3://bucket/sofas --set training.steps=200 --out runs/short
    """
    resolved = _resolve(recipe, teacher, num_images, overrides)
    _prepare()
    from flows.distill import distill as teach
    from flows.run_folder import RunFolder
    from synth.dataset import PaintedSet

    PaintedSet(data)  # refused before anything is made
    RunFolder.claim(resolved, out).use_dataset(data)
    click.echo(f"student  {teach(resolved, out)}")


@main.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--prompt", required=True, help="What the picture shall show.")
@click.option("--source", default="", help="What it shows now; left out, the null text.")
@click.option("--method", type=click.Choice(["dds", "sds", "regularized-sds"]), default="dds", help="Which score.")
@click.option("--optimizer", type=click.Choice(["sgd", "adam"]), default="sgd", help="What takes the steps.")
@click.option(
    "--iterations", type=click.IntRange(1), default=200, show_default=True, help="400 for changes of structure."
)
@click.option("--learning-rate", type=float, default=2.0, show_default=True, help="2 is the published one.")
@click.option("--guidance-scale", type=click.FloatRange(1), default=7.5, show_default=True, help="omega.")
@click.option("--seed", default=0, show_default=True, help="Of the noise.")
@click.option("--series", is_flag=True, help="Also a GIF from the input to the result.")
@click.option("--teacher", default="miniature", show_default=True, help="miniature, a folder or a Hub id.")
@click.option("--out", type=_FOLDER, default=Path("edited"), show_default=True, help="Folder for the results.")
def edit(
    images: tuple[Path, ...], prompt: str, source: str, series: bool, teacher: str, out: Path, **settings: Any
) -> None:
    """Edit IMAGES, or all in a folder, by text alone: zero-shot DDS, no training.

    \b
    distillery edit room.png --source "a grey sofa" --prompt "a red leather sofa" --out edited
    distillery edit street.jpg --prompt "a street in the snow" --teacher some/hub-id --series
    """
    from pydantic import ValidationError

    from distill.settings import EditSettings
    from synth.settings import TeacherSettings

    try:
        chosen = EditSettings(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise click.UsageError(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}") from None
    _prepare()
    from flows.edit import edit_files
    from flows.synthesize import open_teacher

    out.mkdir(parents=True, exist_ok=True)
    for path in edit_files(open_teacher(TeacherSettings(id=teacher)), images, prompt, source, chosen, out, series):
        click.echo(path)


@main.command()
@click.argument("folder", type=_FOLDER)
def export(folder: Path) -> None:
    """Write the model file of the run in FOLDER, from its student.

    \b
    distillery export runs/sofas
    """
    recipe = _recipe_of(folder)
    _prepare()
    from flows.export import export as write_model

    click.echo(f"model  {write_model(recipe, folder)}")


@main.command()
@click.argument("folder", type=_FOLDER)
def evaluate(folder: Path) -> None:
    """Measure the model file of the run in FOLDER on drawn scenes, whoever its teacher was.

    \b
    distillery evaluate runs/sofas
    """
    recipe = _recipe_of(folder)
    _prepare()
    from flows.export import evaluate as measure
    from flows.report import write_report

    measure(recipe, folder)
    write_report(recipe, folder)
    _tell(folder)


@main.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True)
@click.option("--edit", required=True, help="An edit's name (see `distillery inspect`), or `all`.")
@click.option("--strength", default=1.0, show_default=True, help="0 leaves the picture, 1 is the edit as trained.")
@click.option("--out", type=_FOLDER, default=Path("edited"), show_default=True, help="Folder for the results.")
@_provider_option
def translate(
    model: str, images: tuple[str, ...], edit: str, strength: float, out: Path, provider: str | None
) -> None:
    """Apply an edit of MODEL, a file or hf://owner/name, to IMAGES of any size. Needs no torch.

    IMAGES are files, folders and quoted globs. Beside the results lies contact_sheet.png: each input and its edits.
    A picture that cannot be read stops no other: it gets a line at the end, and the exit code is 2.

    \b
    distillery translate model.onnx room.jpg --edit red-leather
    distillery translate model.onnx photos "more/**/*.png" --edit all --strength 0.8 --out edited
    """
    from tqdm import tqdm

    from inference.runtime import Translator
    from inference.translate import ContactSheet, plan, translate_all

    warnings.filterwarnings("ignore", module="PIL")  # a bad picture gets its own line
    translator = Translator.load(model, [provider] if provider else None)
    edits = list(translator.edits) if edit == "all" else [edit]
    translator([], edits[0], strength)  # no picture: a wrong edit or strength is told before anything is written
    jobs, problems = plan(images, edits, out)
    click.echo(f"{len(jobs)} pictures, {len(edits)} edits, on {translator.providers[0]}", err=True)
    sheet = ContactSheet(edits)
    work = translate_all(translator, jobs, strength, sheet, problems)
    written = [path for paths in tqdm(work, total=len(jobs), unit="picture", disable=len(jobs) < 2) for path in paths]
    for path in [*written, *sheet.write(out)]:
        click.echo(path)
    for problem in problems:
        click.echo(f"error: {' '.join(problem.split())}", err=True)
    if problems:
        sys.exit(2)


@main.command()
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
        click.echo(json.dumps(metadata, indent=2, ensure_ascii=False))
        return
    click.echo("edits")
    for name, prompt in metadata.pop("edits").items():
        click.echo(f"  {name}: {prompt}")
    for key, value in metadata.items():
        click.echo(f"{key}: {value if isinstance(value, str | int | float) else json.dumps(value)}")


@main.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 for all networks.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option(
    "--token",
    envvar="DISTILLERY_TOKEN",
    show_envvar=True,
    help="Ask clients for it; better in the environment, where no list of processes shows it.",
)
@_provider_option
def serve(models: tuple[str, ...], host: str, port: int, token: str | None, provider: str | None) -> None:
    """Serve model files over HTTP: POST a picture to /v1/translate, get it back edited. Needs no torch.

    MODEL is a file or hf://owner/name, or NAME=... to name it anew. Ctrl-C finishes what was accepted.

    \b
    distillery serve runs/sofas/model.onnx runs/flowers/model.onnx
    curl -F image=@room.jpg "http://127.0.0.1:8000/v1/translate?model=sofas&edit=red-leather" -o edited.png
    """
    from inference.server import create_app, listen, load_models
    from inference.server import serve as answer

    with listen(host, port) as listener:  # a taken port is told before models are loaded
        translators = load_models(models, [provider] if provider else None)
        app = create_app(translators, token=token)
        for name, translator in translators.items():
            click.echo(f"{name}: {', '.join(translator.edits)} (on {translator.providers[0]})", err=True)
        if token is None and host not in ("127.0.0.1", "localhost", "::1"):
            click.echo("warning: open to the network without a token: set DISTILLERY_TOKEN", err=True)
        answer(app, listener, lambda line: click.echo(line, err=True))


def _resolve(recipe: str, teacher: str | None, num_images: int | None, overrides: tuple[str, ...]) -> Any:
    """The recipe with all that the command line says; --set has the last word."""
    from flows.recipe import load_recipe

    short = [] if teacher is None else [f"teacher.id={json.dumps(teacher, ensure_ascii=False)}"]
    short += [] if num_images is None else [f"scenes.count={num_images}"]
    return load_recipe(recipe, [*short, *overrides])


def _recipe_of(folder: Path) -> Any:
    from flows.run_folder import RunFolder

    return RunFolder(folder).load_recipe()


def _prepare() -> None:
    """Before the libraries are imported: they say only what a person must know, and leave nothing behind."""
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)
    prepare_cpu()
    _private_prefect()


def _private_prefect() -> None:
    """Before Prefect is imported: unless the user has set it up, it lives in a folder that is gone afterwards.

    A run's record is its run folder. Prefect's own database would grow by each run in ~/.prefect, where nobody who
    only calls `distillery` looks for it; whoever has a Prefect server or profile of their own keeps them.
    """
    configured = (Path.home() / ".prefect" / "profiles.toml").exists()
    if configured or "PREFECT_API_URL" in os.environ or "PREFECT_HOME" in os.environ:
        return
    home = tempfile.mkdtemp(prefix="distillery-prefect-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ["PREFECT_HOME"] = home
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")  # slow laptops
    os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")  # the server ends with the run
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")  # progress bars speak; errors end in one line


def _tell(out: Path) -> None:
    """The numbers, and where to look."""
    from flows.report import text_table
    from flows.run_folder import RunFolder

    folder = RunFolder(out)
    if folder.evaluation.exists():
        click.echo(f"\n{text_table(json.loads(folder.evaluation.read_text()))}\n")
    for name, path in (("grid", folder.grid), ("report", folder.report), ("model", folder.model)):
        if path.exists():
            click.echo(f"{name:7}{path}")


if __name__ == "__main__":
    main()
