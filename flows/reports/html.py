"""Pieces of a page that needs nothing beside it: images, curves, and an image that a slider turns into another."""

import base64
import html
import io
from collections.abc import Mapping, Sequence

from PIL import Image

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
.numbers :is(th, td):nth-child(-n+3), .words :is(th, td):first-child { text-align: left }
tr.student td { font-weight: 600 } summary { cursor: pointer; margin: .6rem 0 } .scroll { overflow-x: auto }
pre { background: #f6f6f4; padding: 1rem; overflow-x: auto; font-size: 12px }
figure { margin: 0 } figcaption { font-size: 12px } img { max-width: 100% }
.several { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: .8rem }
.wipe { position: relative; line-height: 0; cursor: ew-resize; --at: 50% }
.wipe img { width: 100% } .wipe img + img { position: absolute; inset: 0; clip-path: inset(0 0 0 var(--at)) }
.wipe input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize }
.wipe::after { content: ""; position: absolute; inset: 0 auto 0 var(--at); width: 2px; background: #fff;
  box-shadow: 0 0 3px #000; pointer-events: none }
.wipe:focus-within { outline: 2px solid #36c }
svg { width: 100%; height: auto } svg text { font-size: 10px; fill: #555 } svg path { fill: none; stroke: #36c }
"""
_WIDTH, _HEIGHT, _LEFT, _BELOW = 300, 110, 44, 16  # px of a curve; what its axes' figures take
_MAX_POINTS = 300


def page(title: str, body: Sequence[str]) -> bytes:
    """One self-contained HTML page of parts that are HTML already."""
    head = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>\n'
    )
    return (head + "\n".join(body) + "\n</html>\n").encode()


def picture(encoded: bytes, caption: str) -> str:
    """A PNG or JPEG with words below it."""
    text = html.escape(caption)
    return f'<figure><img src="{_address(encoded)}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def wipe(before: Image.Image, after: Image.Image, caption: str) -> str:
    """Two images of one size, one over the other: left of the handle before, right of it after."""
    text = html.escape(caption)
    images = "".join(
        f'<img src="{_address(_jpeg(image))}" alt="{text}, {name}">'
        for name, image in (("before", before), ("after", after))
    )
    slider = (
        '<input type="range" min="0" max="100" value="50" aria-label="before and after"'
        " oninput=\"this.parentNode.style.setProperty('--at', this.value + '%')\">"
    )
    return f'<figure><div class="wipe">{images}{slider}</div><figcaption>{text}</figcaption></figure>'


def curves(rows: Sequence[Mapping[str, float]], names: Mapping[str, str]) -> str:
    """Figures of a training over its steps, a small chart each.

    Args:
        rows: one a step, each with `step`.
        names: of the figures to draw -> what to write below.
    """
    charts = (_chart([(row["step"], row[name]) for row in rows], caption) for name, caption in names.items())
    return f'<div class="several">{"".join(charts)}</div>'


def _chart(points: Sequence[tuple[float, float]], caption: str) -> str:
    shown = [*points[: -1 : max(1, len(points) // _MAX_POINTS)], points[-1]]
    low, high = min(y for _, y in shown), max(y for _, y in shown)
    first, last = points[0][0], points[-1][0]
    right, bottom = _WIDTH - 4, _HEIGHT - _BELOW

    def place(x: float, y: float) -> str:
        across = _LEFT + (right - _LEFT) * (x - first) / ((last - first) or 1)
        down = bottom - (bottom - 6) * (y - low) / ((high - low) or 1)
        return f"{across:.1f} {down:.1f}"

    path = "L".join(place(x, y) for x, y in shown)
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(caption)}">'
        f'<path d="M{_LEFT} 6V{bottom}H{right}" style="stroke:#bbb"/><path d="M{path}"/>'
        f'<text x="{_LEFT - 4}" y="12" text-anchor="end">{high:.3g}</text>'
        f'<text x="{_LEFT - 4}" y="{bottom}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 3}">{first:g}</text>'
        f'<text x="{right}" y="{_HEIGHT - 3}" text-anchor="end">step {last:g}</text></svg>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _jpeg(image: Image.Image) -> bytes:
    encoded = io.BytesIO()
    image.convert("RGB").save(encoded, "JPEG", quality=92)
    return encoded.getvalue()


def _address(encoded: bytes) -> str:
    kind = "png" if encoded.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"
