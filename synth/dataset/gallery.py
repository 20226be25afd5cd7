"""The gallery: a page per shard with every image of the dataset and its rejects, and a way to veto images.

Click an image to mark it, then save the page's exclude list and put it beside the README: the next run replaces the
marked images, or leaves marked photographs out. The pages need no server and no network.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from synth.dataset.shards import Row, thumbnail
from synth.dataset.store import Store
from synth.images.encoding import decode_rgb
from synth.templates import data_url, html_templates

_TEMPLATES = html_templates("synth.dataset")


@dataclass(frozen=True)
class Kind:
    """What a gallery calls its images, and which command takes an exclude list into account."""

    name: str
    command: str


PAINTED = Kind("Scenes", "distillery synthesize")
PHOTOGRAPHS = Kind("Photographs", "distillery import-photos")


@dataclass(frozen=True)
class _Thumbnail:
    """What a page shows of a row; `url` is empty where no image was kept."""

    seed: int
    caption: str
    url: str

    @classmethod
    def of(cls, row: Row, caption: str) -> "_Thumbnail":
        url = ""
        if row["image"] is not None:
            small = thumbnail(decode_rgb(row["image"]["bytes"]), "")["bytes"]
            url = data_url(small)
        return cls(row["seed"], caption, url)


def page_name(number: int) -> str:
    """Return the name of a shard's page."""
    return f"preview/train-{number:05d}.html"


def write_page(store: Store, number: int, rows: Sequence[Row], rejects: Sequence[Row], kind: Kind = PAINTED) -> None:
    """Write `preview/train-00000.html` for one shard: its images, and its rejects with their reasons."""
    page = _TEMPLATES.get_template("gallery_page.html").render(
        title=f"{kind.name} {rows[0]['index']} to {rows[-1]['index']}",
        command=kind.command,
        exclude_list=f"exclude-{number:05d}.txt",
        kept=[_Thumbnail.of(row, ": ".join(filter(None, [row.get("source"), row["prompt"]]))) for row in rows],
        rejected=[_Thumbnail.of(row, f"{row['reason']}: {row['prompt']}") for row in rejects],
    )
    store.write(page_name(number), page.encode())


def write_index(store: Store, kind: Kind = PAINTED) -> None:
    """Write `preview.html`, which links the pages."""
    pages = store.names("preview/train-*.html")
    index = _TEMPLATES.get_template("gallery_index.html").render(title=kind.name, pages=pages)
    store.write("preview.html", index.encode())
