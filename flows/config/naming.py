"""Names and fingerprints made from recipes."""

import hashlib
import json
import re
from typing import Any


def slug(name: str) -> str:
    """Turn a recipe's name into part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "run"


def digest(*parts: Any) -> str:
    """Compute the fingerprint of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
