"""Edits to try methods on: images with their texts, and where the world is drawn the true answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from synth.errors import RecipeError
from synth.world.captions import full_caption
from synth.world.scenes import FACTORS, MASK_OF, WorldScene, render, sample_scene

SIZE = 128
"""Side of a drawn example in pixels: the one that the factor readers know."""


@dataclass(frozen=True, eq=False)
class Example:
    """One edit of one image. A photograph has no truth, no mask, no factors and no scene."""

    edit: str
    """What the edit is called."""
    image: NDArray[np.uint8]
    """(H, W, 3)."""
    source_prompt: str
    prompt: str
    truth: NDArray[np.uint8] | None = None
    """The true counterfactual, (H, W, 3)."""
    mask: NDArray[np.bool_] | None = None
    """(H, W): the edited object's silhouettes, before and after."""
    factors: Mapping[str, str] = field(default_factory=dict)
    """What the edit sets."""
    scene: WorldScene | None = None
    """Before the edit."""

    @property
    def picture(self) -> Image.Image:
        """The input, for an editor."""
        return Image.fromarray(self.image)


def drawn_example(scene: WorldScene, factors: Mapping[str, str]) -> Example:
    """An edit of a drawn scene. Both prompts are the scene's full caption; only the edited words differ.

    Raises:
        ValueError: if the scene has no such factor, or the factor no such value.
    """
    after = scene.replace(**factors)
    before_drawn, after_drawn = render(scene, SIZE), render(after, SIZE)
    names = {MASK_OF[factor] for factor in factors}
    mask = np.any([drawn.masks[name] for drawn in (before_drawn, after_drawn) for name in names], axis=0)
    return Example(
        " ".join(factors.values()),
        before_drawn.image,
        full_caption(scene)[0],
        full_caption(after)[0],
        after_drawn.image,
        mask,
        dict(factors),
        scene,
    )


def drawn_examples(factors: Mapping[str, str], num: int, split: str, **given: str) -> list[Example]:
    """The first `num` scenes of a split that have these factors, and look different after the edit.

    Args:
        factors: what the edit sets.
        num: how many.
        split: of the drawn world.
        given: factors that the scenes shall have before.

    Raises:
        RecipeError: if those are what the edit sets.
    """
    if all(given.get(factor) == value for factor, value in factors.items()):
        raise RecipeError(f"scenes that show {given} already are what the edit {dict(factors)} makes of them")
    wanted = {*factors, *given}
    kind = next(kind for kind, known in FACTORS.items() if wanted <= set(known))
    examples: list[Example] = []
    index = 0
    while len(examples) < num:
        scene = sample_scene(split, index, kind)
        index += 1
        if not wanted <= set(scene.factors):
            continue  # only scenes outdoors have a weather
        scene = scene.replace(**given)
        if scene.held_out or all(scene.factors[factor] == value for factor, value in factors.items()):
            continue
        examples.append(drawn_example(scene, factors))
    return examples


def photographs(pictures: Sequence[Image.Image], source_prompt: str, prompt: str) -> list[Example]:
    """One edit of one's own images."""
    return [Example(prompt, np.asarray(picture.convert("RGB")), source_prompt, prompt) for picture in pictures]
