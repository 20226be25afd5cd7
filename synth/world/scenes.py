"""The drawn world: a scene is a kind, a seed and named factors; the image follows from these alone.

Change one factor, and outside the silhouettes of what changed the image stays the same to the last bit. That image
is the counterfactual: the ground truth of an edit, which photographs never have.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import replace as _replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synth.seeds import derive_seed
from synth.world import plants, portraits, rooms, shifted
from synth.world.canvas import Canvas

SPLITS = ("train", "development", "test", "shifted")
"""Disjoint by seed. `shifted` is drawn in other styles (`synth.world.shifted`)."""
FACTORS: dict[str, dict[str, tuple[str, ...]]] = {
    "room": rooms.FACTORS,
    "plant": plants.FACTORS,
    "portrait": portraits.FACTORS,
}
MASK_OF = {
    "color": "sofa",
    "material": "sofa",
    "flower": "flower",
    "character": "person",
    "weather": "weather",
}
"""The silhouette that an edit of each factor may change."""

HELD_OUT: tuple[tuple[tuple[str, str], tuple[str, str]], ...] = (
    (("color", "pink"), ("material", "leather")),
    (("color", "green"), ("material", "striped")),
    (("color", "orange"), ("material", "velvet")),
    (("flower", "dahlias"), ("place", "kitchen")),
    (("flower", "roses"), ("place", "city street")),
    (("weather", "snowing"), ("flower", "tulips")),
    (("character", "zombie"), ("glasses", "glasses")),
)
"""Combinations that only `test` and `shifted` contain: the teacher and its readers never saw them."""

_KINDS = (("room", 0.45), ("plant", 0.35), ("portrait", 0.20))
_DRAW = {"room": rooms.draw, "plant": plants.draw, "portrait": portraits.draw}


@dataclass(frozen=True)
class WorldScene:
    """What an image shows. `seed` decides all that has no name: positions, sizes, the pattern of the bushes."""

    kind: str
    seed: int
    factors: Mapping[str, str]
    shifted: bool = False

    def replace(self, **factors: str) -> "WorldScene":
        """The same scene with other factors: its counterfactual.

        Raises:
            ValueError: if the scene has no such factor, or the factor no such value.
        """
        for factor, value in factors.items():
            if factor not in self.factors:
                raise ValueError(f"this {self.kind} has no factor {factor!r}; it has {', '.join(self.factors)}")
            if value not in FACTORS[self.kind][factor]:
                known = ", ".join(FACTORS[self.kind][factor])
                raise ValueError(f"{factor} cannot be {value!r}; it is one of {known}")
        return _replace(self, factors={**self.factors, **factors})

    @property
    def held_out(self) -> bool:
        """Whether the scene shows a combination that training never sees."""
        pairs = set(self.factors.items())
        return any(first in pairs and second in pairs for first, second in HELD_OUT)


@dataclass(frozen=True)
class Drawing:
    """A drawn scene: `image` uint8 (size, size, 3); `masks` by name, bool (size, size)."""

    image: NDArray[np.uint8]
    masks: dict[str, NDArray[np.bool_]]


def sample_scene(split: str, index: int, kind: str | None = None) -> WorldScene:
    """Scene `index` of a split; pure. Splits share no seed, and training sees no held-out combination.

    Args:
        split: one of SPLITS.
        index: any number from 0 on.
        kind: "room", "plant" or "portrait"; drawn when None.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    attempt = 0
    while True:
        # A held-out combination is drawn again, from a seed of its own.
        seed = derive_seed("world", split, kind or "any", index, attempt)
        rng = random.Random(seed)
        drawn = rng.choices([name for name, _ in _KINDS], [weight for _, weight in _KINDS])[0]
        scene = WorldScene(kind or drawn, seed, _draw_factors(kind or drawn, rng), split == "shifted")
        if split in ("test", "shifted") or not scene.held_out:
            return scene
        attempt += 1


def render(scene: WorldScene, size: int = 128) -> Drawing:
    """Draw a scene. Pure: the same scene gives the same bytes on every machine with the same Pillow."""
    style_draws = random.Random(derive_seed("style", scene.seed))
    style = shifted.Style.draw(style_draws) if scene.shifted else None
    canvas = Canvas(size, style.line_scale if style else 1.0)
    _DRAW[scene.kind](canvas, scene.factors, random.Random(derive_seed("layout", scene.seed)))
    if style:
        shifted.clutter(canvas, scene.kind, style_draws)
        canvas.look_from(style.corners)
    masks: dict[str, Any] = {}
    if scene.kind == "room":
        masks["sofa"] = canvas.coverage("sofa") > 0
    elif scene.kind == "plant":
        masks["flower"] = canvas.coverage("flower") > 0
        if "weather" in scene.factors:
            # The weather shows wherever the pot and its plant do not cover a pixel fully.
            masks["weather"] = canvas.coverage("foreground") < 255
    else:
        masks["person"] = canvas.coverage("person") > 0
    image = canvas.finish()
    return Drawing(style.recolor(image) if style else image, masks)


def _draw_factors(kind: str, rng: random.Random) -> dict[str, str]:
    factors = {name: rng.choice(values) for name, values in FACTORS[kind].items()}
    if kind == "plant" and factors["place"] not in plants.OUTDOORS:
        del factors["weather"]
    return factors
