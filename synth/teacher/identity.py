"""Tells models apart by their content, wherever they are."""

import hashlib
import re
from pathlib import Path

from synth.errors import DistilleryError
from synth.files import is_junk
from synth.state import reading


def identify(name: str, error: type[DistilleryError], remedy: str) -> str:
    """Identify a model: a folder by its weights and configs, wherever it is; a Hub id by itself.

    Args:
        name: the folder or Hub id.
        error: the class to raise.
        remedy: what the user can do; it ends the message.

    Raises:
        error: if a file of the folder cannot be read.
    """
    folder = Path(name)
    if not folder.is_dir():
        return name
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        if not is_junk(path.name):
            with reading(path, error, remedy):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def sha256(path: Path) -> bytes:
    """Hash a file's content. The Hub's cache names large files by their hash: these need not be read."""
    blob = path.resolve()
    if path.is_symlink() and blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name):
        return bytes.fromhex(blob.name)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
