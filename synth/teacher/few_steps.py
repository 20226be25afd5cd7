"""Tells models that were distilled to paint in a few steps: what they predict on the way is no longer the noise."""

import re
from collections.abc import Mapping
from typing import Any

from synth.errors import TeacherError

_FEW_STEPS = re.compile(
    r"turbo|lightning|schnell|latent-consistency|instaflow|perflow|swiftbrush"
    r"|(?<![a-z])(?:lcm|dmd|pcm|tcd)(?![a-z])"
    r"|(?<![a-z])hyper-?(?:sd|flux)|(?<![a-z])hyper(?=$|[-_. ]?(?:xl|\d+[-_ ]?steps?))"
    r"|(?<![a-z])flash[-_]?(?:sd|xl|pixart|diffusion)|(?:sd|xl|sd\d+)[-_]?flash(?![a-z])",
    re.IGNORECASE,
)
"""Kinds of few-step models in the names that people give them; a "hyper-realistic" model is none."""


def is_few_steps_name(name: str) -> bool:
    """Whether a folder or a Hub id is called after such a kind; its owner's name does not count."""
    return _FEW_STEPS.search(name.rsplit("/", 1)[-1]) is not None


def is_few_steps(scheduler: str, network: Mapping[str, Any]) -> bool:
    """Whether a model's scheduler, by its class, or its network's config says so."""
    return scheduler in ("LCMScheduler", "TCDScheduler") or network.get("time_cond_proj_dim") is not None


def require_scorer(name: str, few_steps: bool) -> None:
    """Refuse a model that can paint but not teach; see `Teacher.require_scorer`.

    Raises:
        TeacherError: if it paints in a few steps.
    """
    if few_steps:
        raise TeacherError(
            f"{name} paints in a few steps and cannot serve as a scorer: distil from the model that it was made from"
        )
