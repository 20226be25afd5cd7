"""A run, or a painted set, to the Hugging Face Hub."""

import logging
import re
from pathlib import Path
from typing import Any

import tomli_w

from flows.config.schema import Recipe
from flows.run.folder import RunFolder
from synth.errors import RunError
from synth.urls import redact

logger = logging.getLogger(__name__)

_OF_A_RUN = re.compile(
    r"README\.md|model\.onnx|model\.onnx\.data|grid\.png|recipe\.toml|evaluation\.json"
    r"|student/[A-Za-z0-9_-][A-Za-z0-9_.-]*\.(json|safetensors)"
)
_OF_A_SET = re.compile(r"README\.md|grid\.png|preview\.html|(data|rejects)/train-[0-9]{5,}\.parquet")
_FOLDERS = ("", "student", "data", "rejects")


def publish(folder: Path, to: str, private: bool = False) -> str:
    """Upload a run's model or a data set, each with its card.

    Args:
        folder: a run folder, exported, or a data set's folder.
        to: hf://owner/name for a model, hf://datasets/owner/name for a set.
        private: make a new repository private.

    Returns:
        Where it lies now.

    Raises:
        RunError: for an address or a folder that will not do, before anything is sent, and when the Hub refuses.
    """
    parts = re.fullmatch(r"hf://(datasets/)?([\w.-]+/[\w.-]+)", to)
    if parts is None:
        raise RunError(f"{to} is no address on the Hub: write hf://owner/name, or hf://datasets/owner/name for a set")
    repo, is_set = parts[2], parts[1] is not None
    _check(folder, is_set)
    contents: dict[str, Path | bytes] = {}
    if not is_set:
        from flows.reports.model_card import write_model_card

        recipe = RunFolder(folder).load_recipe()
        write_model_card(recipe, folder, repo)
        contents["recipe.toml"] = _public_recipe(recipe)
    contents = _files(folder, _OF_A_SET if is_set else _OF_A_RUN) | contents
    for name in contents:
        logger.info(f"sending {name}")
    from huggingface_hub import CommitOperationAdd, HfApi

    api, kind = HfApi(), "dataset" if is_set else "model"
    try:
        url = api.create_repo(repo, private=private or None, repo_type=kind, exist_ok=True)
        api.create_commit(
            repo,
            [CommitOperationAdd(name, content) for name, content in contents.items()],
            repo_type=kind,
            commit_message=f"{folder.resolve().name}, by dds-distillery",
        )
    except Exception as error:  # HTTP, network and token errors share no base class
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RunError(
            f"the Hub did not take {to}: {redact(reason)}; log in with `hf auth login`, "
            "and check the owner and the network"
        ) from error
    return str(url)


def _check(folder: Path, is_set: bool) -> None:
    if is_set:
        if not list(folder.glob("data/train-*.parquet")):
            raise RunError(f"{folder} holds no data set: `distillery synthesize RECIPE --out {folder}` paints one")
        return
    run = RunFolder(folder)
    run.load_recipe()
    if not run.model.exists():
        raise RunError(f"{folder} has no model file yet: `distillery export {folder}` writes one")


def _files(folder: Path, allowed: re.Pattern[str]) -> dict[str, Path | bytes]:
    """Name -> path of exactly what is sent.

    Raises:
        RunError: for a symlink, which may lead anywhere.
    """
    found: dict[str, Path | bytes] = {}
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
    """The recipe without what concerns its owner's machines alone: operations, tracker, device, folders."""
    values: dict[str, Any] = recipe.model_dump(mode="json", exclude_none=True)
    values.pop("operations")
    values["training"].pop("tracker", None)
    values["teacher"].pop("device", None)
    return tomli_w.dumps(_without_paths(values)).encode()


def _without_paths(value: Any) -> Any:
    """The same values, where the path of a folder or file of this machine is its last part alone."""
    if isinstance(value, dict):
        return {key: _without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_paths(inner) for inner in value]
    is_path = isinstance(value, str) and "\n" not in value and re.match(r"(/|~|\.{1,2}/|[A-Za-z]:\\|file:)", value)
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1] if is_path else value
