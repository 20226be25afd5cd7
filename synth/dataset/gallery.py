"""The gallery: every image of the set on a page a shard, with its rejects, and a way to veto.

Click an image to mark it, then save the page's exclude list and put it beside the README: the next run paints other
images in place of the marked ones. The pages need no server and no network.
"""

import base64
import html
from collections.abc import Sequence

from synth.dataset.shards import Row, thumbnail
from synth.dataset.store import Store
from synth.images import decode_rgb

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 24px; color: #222; background: #fafaf8 }
.all { display: flex; flex-wrap: wrap; gap: 8px }
figure { margin: 0; width: 112px; cursor: pointer }
figure img { width: 112px; height: 112px; object-fit: contain; display: block; border-radius: 4px; background: #eee }
figcaption { font-size: 11px; color: #666; overflow: hidden; max-height: 3.9em }
figure.out img { opacity: .25; outline: 3px solid #c33 }
.rejects figure { cursor: default }
button { font: inherit; padding: 4px 12px; margin-right: 12px }
header { position: sticky; top: 0; background: #fafaf8; padding: 8px 0 }
"""
_SCRIPT = """
const out = new Map();
document.querySelectorAll('.kept figure').forEach(f => f.onclick = () => {
  f.classList.toggle('out') ? out.set(f.dataset.seed, f.title) : out.delete(f.dataset.seed);
  document.getElementById('count').textContent = out.size + ' marked';
});
document.getElementById('save').onclick = () => {
  const text = [...out].map(([seed, prompt]) => seed + '  # ' + prompt.replace(/\\s+/g, ' ') + '\\n').join('');
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], {type: 'text/plain'}));
  link.download = document.body.dataset.list;
  link.click();
};
"""


def write_page(store: Store, number: int, rows: Sequence[Row], rejects: Sequence[Row]) -> None:
    """Write `preview/train-00000.html` for one shard: rows as they are kept, rejects with their reasons."""
    kept = "\n".join(_figure(row, row["prompt"]) for row in rows)
    gone = "\n".join(_figure(row, f"{row['reason']}: {row['prompt']}") for row in rejects)
    title = f"Scenes {rows[0]['index']} to {rows[-1]['index']}"
    store.write(
        f"preview/train-{number:05d}.html",
        f"""<!doctype html><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>
<body data-list="exclude-{number:05d}.txt">
<header><a href="../preview.html">all shards</a> <b>{title}</b>
<button id="save">save the exclude list</button><span id="count">0 marked</span></header>
<p>Click what must go, save the list beside README.md, and run <code>distillery synthesize</code> again.</p>
<div class="all kept">
{kept}
</div>
<h2>{len(rejects)} rejected</h2>
<div class="all rejects">
{gone}
</div>
<script>{_SCRIPT}</script>
""".encode(),
    )


def write_index(store: Store) -> None:
    """Write `preview.html`, which links the pages."""
    pages = store.names("preview/train-*.html")
    links = "\n".join(
        f'<li><a href="{page}">{page.rpartition("/")[2].removesuffix(".html")}</a></li>' for page in pages
    )
    store.write(
        "preview.html",
        f"""<!doctype html><meta charset="utf-8"><title>Painted scenes</title><style>{_STYLE}</style>
<h1>Painted scenes</h1>
<img src="grid.png" alt="a sample" style="max-width: 100%">
<ul>
{links}
</ul>
""".encode(),
    )


def _figure(row: Row, caption: str) -> str:
    text = html.escape(caption, quote=True)
    picture = "<img alt='no image is kept of this one'>"
    if row["image"] is not None:
        small = thumbnail(decode_rgb(row["image"]["bytes"]), "")["bytes"]
        picture = f'<img loading="lazy" src="data:image/jpeg;base64,{base64.b64encode(small).decode()}">'
    return f'<figure data-seed="{row["seed"]}" title="{text}">{picture}<figcaption>{text}</figcaption></figure>'
