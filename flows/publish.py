"""A run, or a painted set, to the Hugging Face Hub."""

import re
from pathlib import Path

from flows.run.folder import RunFolder
from synth.errors import RunError

_OF_A_RUN = ["README.md", "model.onnx", "model.onnx.data", "grid.png", "recipe.toml", "evaluation.json", "student/*"]
_OF_A_SET = ["README.md", "*.png", "data/*.parquet", "rejects/*.parquet", "preview.html"]


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
    files = _check(folder, is_set)
    if not is_set:
        from flows.reports.model_card import write_model_card

        write_model_card(RunFolder(folder).load_recipe(), folder, repo)
    from huggingface_hub import HfApi

    api, kind = HfApi(), "dataset" if is_set else "model"
    try:
        url = api.create_repo(repo, private=private or None, repo_type=kind, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            repo_type=kind,
            allow_patterns=files,
            commit_message=f"{folder.resolve().name}, by dds-distillery",
        )
    except Exception as error:  # HTTP, network and token errors share no base class
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RunError(
            f"the Hub did not take {to}: {reason}; log in with `hf auth login`, and check the owner and the network"
        ) from error
    return str(url)


def _check(folder: Path, is_set: bool) -> list[str]:
    """The patterns of what is to be sent; nothing else that lies in the folder is."""
    if is_set:
        if not list(folder.glob("data/train-*.parquet")):
            raise RunError(f"{folder} holds no data set: `distillery synthesize RECIPE --out {folder}` paints one")
        return _OF_A_SET
    run = RunFolder(folder)
    run.load_recipe()
    if not run.model.exists():
        raise RunError(f"{folder} has no model file yet: `distillery export {folder}` writes one")
    return _OF_A_RUN
