"""Tells models apart by their content, wherever they are."""

import hashlib
from pathlib import Path

from synth.files import is_junk


def identify(name: str) -> str:
    """Identify a model: a folder by its weights and configs, wherever it is; a Hub id by itself."""
    folder = Path(name)
    if not folder.is_dir():
        return name
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        if not is_junk(path.name):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
