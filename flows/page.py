"""A run's model as a page that needs no server of its own: a folder for any web host, or a static Space on the Hub.

    index.html, app.js, ...     the page that `distillery serve` shows
    vendor/                     onnxruntime-web's own files
    models.json                 which model files there are
    models/NAME-DIGEST.onnx     a name that stands for these bytes, so that caches may keep it for ever
    README.md, grid.png         the card; on the Hub its front matter sets the Space up

Nothing on it asks another host for anything, and the image never leaves the browser.
"""

import json
from hashlib import file_digest
from pathlib import Path

from flows.reports.space_card import space_card
from flows.run.folder import RunFolder
from flows.run.lock import exclusive_folder
from synth.errors import RunError
from synth.files import is_junk, whole_folder
from synth.words import ascii_slug

Contents = dict[str, Path | bytes]
"""Name in the folder -> a file, or its content."""
_PAGE_FILES = (".html", ".css", ".js")


def write_page(folder: Path, out: Path) -> None:
    """Write the page of the run in `folder`, whole or not at all; it replaces an older page.

    Raises:
        RunError: if the run has no model file for a page, or something else is in `out`.
        FileError: if it cannot be written.
    """
    with exclusive_folder(folder):
        contents = page_contents(folder)
        _check_out(out, contents)
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(out) as part:
            for name, content in contents.items():
                place = part / name
                place.parent.mkdir(exist_ok=True)
                place.write_bytes(content if isinstance(content, bytes) else content.read_bytes())


def page_contents(folder: Path, repo: str = "") -> Contents:
    """List what the page of the run in `folder` consists of.

    Args:
        folder: an exported run's folder.
        repo: owner/name of its model on the Hub, for the card's link.

    Raises:
        RunError: if the run has no model file, one with a second file beside it, or onnxruntime-web is missing.
    """
    from inference.runtime import Translator
    from inference.server.page import WEB
    from inference.server.web import fetch

    run = RunFolder(folder)
    recipe = run.load_recipe()
    model = _model_of(run)
    for path in (model, run.grid):
        if path.is_symlink():  # it may lead anywhere, and what a page holds is for everybody
            raise RunError(f"{path} is a symlink: put the file itself there to make a page of it")
    if not fetch.is_there(WEB / "vendor"):
        raise RunError("onnxruntime-web is not beside the page: `make web` in the project puts it there")
    metadata = Translator.load(model, ["cpu"]).metadata
    contents: Contents = {path.name: path for path in sorted(WEB.iterdir()) if path.suffix in _PAGE_FILES}
    contents |= {f"vendor/{name}": WEB / "vendor" / name for name in fetch.FILES}
    with model.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    file_name = f"models/{ascii_slug(recipe.name)}-{digest[:12]}.onnx"
    contents[file_name] = model
    listed = [{"name": recipe.name, "file": file_name, "digest": f"sha256:{digest}"}]
    contents["models.json"] = (json.dumps(listed, indent=2) + "\n").encode()
    if run.grid.exists():
        contents["grid.png"] = run.grid
    contents["README.md"] = space_card(recipe.name, metadata, run.grid.exists(), repo).encode()
    return contents


def _model_of(run: RunFolder) -> Path:
    """The pixel network's file, which a page runs in a fraction of the time, or else the student's.

    Raises:
        RunError: if there is none, or it is not whole in itself.
    """
    pixel = run.pixel_model
    model = pixel if pixel.exists() else run.model
    if not model.exists():
        raise RunError(f"{run.path} has no model file yet: `distillery export {run.path}` writes one")
    if (beside := model.with_name(f"{model.name}.data")).exists():
        raise RunError(
            f"{model} keeps its weights in {beside.name}, and a page takes one file: export it in another precision, "
            "such as float16"
        )
    return model


def _check_out(out: Path, contents: Contents) -> None:
    """Refuse a folder that holds anything but an older page."""
    if not out.exists():
        return
    ours = {name for name in contents if not name.startswith("models/")} | {"grid.png"}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        is_model = path.parent == out / "models" and path.suffix == ".onnx"
        if path.is_symlink() or not (path.is_dir() or name in ours or is_model or is_junk(path.name)):
            raise RunError(f"{out} holds {name}, which is not part of a page: choose another folder")
