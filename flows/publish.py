"""Publish a run's model, its page or a dataset to the Hugging Face Hub."""

import json
import logging
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import tomli_w

from flows.config.schema import Recipe
from flows.page import Contents, page_contents
from flows.run.folder import RunFolder
from flows.run.lock import exclusive_folder
from flows.viewable import check_viewable
from synth.errors import RunError, first_line
from synth.state import read_json
from synth.templates import public_name
from synth.urls import redact

logger = logging.getLogger(__name__)

_RUN_FILES = re.compile(
    r"README\.md|model(\.pixel)?\.onnx|model\.onnx\.data|grid(-pixel)?\.png|recipe\.toml|evaluation\.json"
    r"|(student|pixel/network)/[A-Za-z0-9_-][A-Za-z0-9_.-]*\.(json|safetensors)"
)
_DATASET_FILES = re.compile(r"README\.md|grid\.png|preview\.html|(data|rejects)/train-[0-9]{5,}\.parquet")
_Kind = Literal["model", "space", "dataset"]
_FOLDERS = ("", "student", "pixel/network", "data", "rejects")


def publish(folder: Path, to: str, private: bool = False, as_space: bool = False) -> str:
    """Upload a run's model, its page or a dataset, with its card.

    Args:
        folder: an exported run's folder, or a dataset's.
        to: hf://owner/name for a model and its page, hf://datasets/owner/name for a dataset.
        private: whether to make a new repository private.
        as_space: whether to upload the run's page, as a static Space, instead of the model.

    Returns:
        The repository's URL.

    Raises:
        RunError: for an unusable address or folder, before anything is sent; or if the Hub refuses.
        DatasetError: for a dataset that the Hub's viewer would not show.
    """
    address = re.fullmatch(r"hf://(datasets/)?([\w.-]+/[\w.-]+)", to)
    if address is None:
        raise RunError(
            f"{to} is not an address on the Hub: write hf://owner/name, or hf://datasets/owner/name for a dataset"
        )
    repo = address[2]
    is_dataset = address[1] is not None
    if is_dataset and as_space:
        raise RunError(f"{to} is a dataset, and a Space shows a model: write hf://{repo}")
    _check(folder, is_dataset)
    kind: _Kind = "dataset" if is_dataset else "space" if as_space else "model"
    # What is uploaded belongs together: no other command may be at work on the run.
    with nullcontext() if is_dataset else exclusive_folder(folder):
        contents = page_contents(folder, repo) if as_space else _contents(folder, repo, is_dataset)
        for name in contents:
            logger.info(f"uploading {name}")
        return _upload(folder, to, repo, contents, private, kind)


def _contents(folder: Path, repo: str, is_dataset: bool) -> Contents:
    """Prepare what is uploaded: name -> a file, or its public content."""
    contents: Contents = {}
    if not is_dataset:
        from flows.reports.model_card import write_model_card

        recipe = RunFolder(folder).load_recipe()
        write_model_card(recipe, folder, repo)
        contents["recipe.toml"] = _public_recipe(recipe)
    contents = _files(folder, _DATASET_FILES if is_dataset else _RUN_FILES) | contents
    for name, content in contents.items():
        if name.endswith(".json") and isinstance(content, Path):
            contents[name] = _public_json(content)
    return contents


def _upload(folder: Path, to: str, repo: str, contents: Contents, private: bool, kind: _Kind) -> str:
    """Upload in one commit, and return the repository's URL."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    try:
        # None leaves the choice to the owner's settings on the Hub.
        url = api.create_repo(
            repo,
            private=private or None,
            repo_type=kind,
            space_sdk="static" if kind == "space" else None,
            exist_ok=True,
        )
        api.create_commit(
            repo,
            [CommitOperationAdd(name, content) for name, content in contents.items()],
            repo_type=kind,
            commit_message=f"{folder.resolve().name}, by dds-distillery",
        )
    except Exception as error:  # HTTP, network and token errors share no base class
        raise RunError(
            f"the Hub refused {to}: {redact(first_line(error))}; log in with `hf auth login`, "
            "and check the owner and the network"
        ) from error
    return str(url)


def _check(folder: Path, is_dataset: bool) -> None:
    """Refuse a folder that has nothing to publish."""
    if is_dataset:
        from synth.dataset.shards import shard_names
        from synth.dataset.store import Store

        if not shard_names(Store(folder)):
            raise RunError(f"{folder} is not a dataset: `distillery synthesize RECIPE --out {folder}` paints one")
        check_viewable(folder)
        return
    run = RunFolder(folder)
    run.load_recipe()
    if not run.model.exists():
        raise RunError(f"{folder} has no model file yet: `distillery export {folder}` writes one")


def _files(folder: Path, allowed: re.Pattern[str]) -> Contents:
    """Find exactly the files to upload: name -> path.

    Raises:
        RunError: for a symlink, which may lead anywhere.
    """
    found: Contents = {}
    for place in (folder / name for name in _FOLDERS):
        for path in sorted(place.iterdir()) if place.is_dir() else []:
            name = path.relative_to(folder).as_posix()
            if allowed.fullmatch(name) is None:
                continue
            if path.is_symlink() or (place != folder and place.is_symlink()):
                raise RunError(f"{path} is or lies behind a symlink: put the file itself there to publish it")
            if path.is_file():
                found[name] = path
    return found


def _public_recipe(recipe: Recipe) -> bytes:
    """Write the recipe without what only concerns its owner's machines: operations, tracker, device, paths."""
    values: dict[str, Any] = recipe.model_dump(mode="json", exclude_none=True)
    values.pop("operations")
    values["training"].pop("tracker", None)
    values["teacher"].pop("device", None)
    return tomli_w.dumps(_without_paths(values)).encode()


def _public_json(path: Path) -> bytes:
    """Read a JSON file, without its paths: diffusers stores the folder that a model came from."""
    remedy = f"`distillery export {path.parent}` writes the run's files again"
    return json.dumps(_without_paths(read_json(path, dict[str, Any], RunError, remedy)), indent=2).encode()


def _without_paths(value: Any) -> Any:
    """Copy values, and shorten each path on this machine to its last component."""
    if isinstance(value, dict):
        return {key: _without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_paths(inner) for inner in value]
    return public_name(value) if isinstance(value, str) else value
