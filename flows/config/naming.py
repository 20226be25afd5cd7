"""Names and fingerprints of recipes and edits."""

import hashlib
import json
import re
from typing import Any

from synth.words import WORD_CHARACTERS, nfc, slug

_EDIT_NAME = re.compile(rf"(?!_)[{WORD_CHARACTERS}][{WORD_CHARACTERS}-]*")
MAX_EDIT_NAME = 64  # characters


def edit_name(name: str) -> str:
    """Check the name of an edit, which becomes part of file names; returns it in Unicode's composed form.

    Raises:
        ValueError: for anything but lower-case letters and digits of any script, hyphens and underscores.
    """
    composed = nfc(name)
    if composed != nfc(composed.lower()) or not _EDIT_NAME.fullmatch(composed) or len(composed) > MAX_EDIT_NAME:
        raise ValueError(
            "is not an edit's name: use lower-case letters, digits and hyphens, of any script and at most "
            f"{MAX_EDIT_NAME}"
        )
    return composed


def name_from(words: str) -> str:
    """Derive an edit's name from words: as many of them as a name may have letters."""
    name = slug(words)
    while len(name) > MAX_EDIT_NAME:
        shorter = name[:MAX_EDIT_NAME].rpartition("-")[0]
        name = shorter or name[:MAX_EDIT_NAME]
    return name


def digest(*parts: Any) -> str:
    """Compute the fingerprint of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
