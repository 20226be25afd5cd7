"""The card of a page: on the Hub, its front matter makes the folder a static Space."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import SpaceCardData

from synth.markdown import code, table
from synth.templates import hub_licence, render_card

_ISOLATING = {
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "cross-origin",
}
"""What lets WebAssembly use more than one thread: a browser shares memory between them for an isolated page alone."""


def space_card(name: str, metadata: Mapping[str, Any], has_grid: bool, repo: str = "") -> str:
    """Write the card.

    Args:
        name: of the recipe.
        metadata: of the model file.
        has_grid: whether grid.png lies beside the card.
        repo: owner/name of the model on the Hub; "" if it is not there.
    """
    front_matter = SpaceCardData(
        title=name,
        sdk="static",
        app_file="index.html",
        license=hub_licence(metadata["licence"]),
        models=[repo] if repo else None,
        tags=["image-editing", "delta-denoising-score", "dds-distillery"],
        emoji="\N{ARTIST PALETTE}",
        colorFrom="indigo",
        colorTo="purple",
        pinned=False,
        short_description="Edits images in the browser: none is uploaded",
        custom_headers=_ISOLATING,
    )
    return render_card(
        "flows.reports",
        "space_card.md",
        front_matter,
        name=name,
        has_grid=has_grid,
        edits_table=table(("edit", "as in"), [(code(edit), prompt) for edit, prompt in metadata["edits"].items()]),
        metadata=metadata,
        repo=repo,
    )
