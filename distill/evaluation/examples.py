"""Edits to try methods on: images with their texts and, in the drawn world, the true answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.evaluation.counterfactuals import edited_mask
from synth.errors import RecipeError
from synth.world.captions import full_caption
from synth.world.scenes import FACTORS, HELD_OUT, WorldScene, render, sample_scene

SIZE = 128
"""Side of a drawn example in pixels: the one that the factor readers know."""


@dataclass(frozen=True, eq=False)
class Example:
    """One edit of one image. A photograph has neither truth, mask, factors nor scene."""

    edit: str
    """The edit's name."""
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
    def pil_image(self) -> Image.Image:
        """The input, for Pillow and for `distill.zero_shot.edit`."""
        return Image.fromarray(self.image)


def drawn_example(scene: WorldScene, factors: Mapping[str, str]) -> Example:
    """Make the edit of a drawn scene. Both prompts are the scene's full caption; only the edited words differ.

    Args:
        scene: before the edit.
        factors: what the edit sets.

    Raises:
        ValueError: if the scene has no such factor, or the factor no such value.
    """
    after = scene.replace(**factors)
    before_drawn, after_drawn = render(scene, SIZE), render(after, SIZE)
    return Example(
        edit=" ".join(factors.values()),
        image=before_drawn.image,
        source_prompt=full_caption(scene)[0],
        prompt=full_caption(after)[0],
        truth=after_drawn.image,
        mask=edited_mask(before_drawn, after_drawn, factors),
        factors=dict(factors),
        scene=scene,
    )


def drawn_examples(factors: Mapping[str, str], num: int, split: str, **given: str) -> list[Example]:
    """Choose the first `num` scenes of a split that have these factors and look different after the edit.

    Args:
        factors: what the edit sets.
        num: how many.
        split: of the drawn world.
        given: factors that the scenes show before the edit.

    Raises:
        RecipeError: if these are what the edit sets, or a combination that is held out.
    """
    if all(given.get(factor) == value for factor, value in factors.items()):
        raise RecipeError(f"scenes that show {given} already are what the edit {dict(factors)} makes of them")
    if any(set(pair) <= set(given.items()) for pair in HELD_OUT):
        raise RecipeError(f"no scene may show {given} before an edit: that combination is held out of training")
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


def photograph_examples(images: Sequence[Image.Image], source_prompt: str, prompt: str) -> list[Example]:
    """Make one edit of the user's own images."""
    return [Example(prompt, np.asarray(image.convert("RGB")), source_prompt, prompt) for image in images]
