"""The miniature's model card, from what its training and its measurements left on disk."""

import hashlib
import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from synth.errors import TrainingError
from synth.miniature.score import BARS

_PARTS = ("vae", "text_encoder", "unet", "reader")
_GRIDS = ("samples.png", "vae.png")
_HEAD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
tags: [synthetic, test-fixture]
---
# The miniature

A latent diffusion model of drawn scenes: living rooms with a sofa, potted plants in four places and four kinds of
weather, portraits of people and of four characters. It is a test fixture and a measuring instrument for
[dds-distillery](../../../README.md), small enough to ship and to run without a GPU; it is no evidence about any other
model. It knows the drawn world and nothing else.

```python
pipeline = diffusers.StableDiffusionPipeline.from_pretrained("synth/miniature/weights")
pipeline("a red leather sofa in a living room with grey walls", num_inference_steps=8, guidance_scale=4.0)
```

Samples for unseen captions; the last row is the null text:

![samples](samples.png)

Unseen drawings above what the VAE makes of them:

![drawings and reconstructions](vae.png)
"""


def write_card(folder: Path, out: Path) -> Path:
    """Write `README.md` and its pictures into the diffusers folder.

    Args:
        folder: assembled, readers included.
        out: the training's folder, with `score.json` of that very folder, `readers.json` and `log.jsonl`.

    Raises:
        TrainingError: if a figure was not measured yet.
    """
    for name in ("score.json", "readers.json", *_GRIDS):
        if not (out / name).exists():
            raise TrainingError(f"{out} has no {name} yet: run the stages vae and reader, and synth.miniature.score")
    score, readers = (json.loads((out / name).read_text()) for name in ("score.json", "readers.json"))
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    page = [_HEAD, _figures(_history(folder, score, log)), _readers(readers), _parts(folder), _training(log)]
    for name in _GRIDS:
        shutil.copyfile(out / name, folder / name)
    part = folder / "README.md.part"
    part.write_text("\n".join(page))
    os.replace(part, folder / "README.md")
    return folder / "README.md"


def _history(folder: Path, score: dict[str, float], log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The figures of all weights that were ever shipped, these last; kept beside them as `scores.json`."""
    digest = hashlib.sha256()
    for file in sorted((folder / "unet").glob("*.safetensors")):
        digest.update(file.read_bytes())
    minutes = {entry["stage"]: round(entry["minutes"]) for entry in log if "step" in entry}  # the last line's
    path = folder / "scores.json"
    known: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    entry = {"weights": digest.hexdigest()[:12], "minutes": minutes, "score": score}
    known = [other for other in known if other["weights"] != entry["weights"]] + [entry]
    part = path.with_suffix(".part")
    part.write_text(json.dumps(known, indent=1) + "\n")
    os.replace(part, path)
    return known


def _figures(history: list[dict[str, Any]]) -> str:
    columns = []
    for entry in history:
        score, minutes = entry["score"], entry["minutes"]
        trained = " + ".join(str(minutes[stage]) for stage in ("vae", "unet", "decoder") if stage in minutes)
        painted = (
            f"{score['num']:.0f} x {score['num_inference_steps']:.0f} steps, guidance {score['guidance_scale']:g}"
        )
        columns.append(f"{trained} min; {painted}")
    lines = [
        "## What it can do\n",
        "Captions of unseen scenes are painted, and as many unseen drawings sent through the VAE. A share counts the "
        "samples in which the strict reader sees what the caption names; KID is taken in the readers' feature space; "
        "`ms_per_call` is what the U-Net takes for an image in a batch of 40. A column for each weights that were "
        "shipped, the present ones last: minutes of training (VAE + U-Net + decoder), captions x steps.\n",
        f"| figure | bar | {' | '.join(columns)} |",
        f"|---|---|{'---|' * len(columns)}",
    ]
    for name in history[-1]["score"]:
        if name in ("num", "num_inference_steps", "guidance_scale"):
            continue
        bar = f"{BARS[name]:g}" if name in BARS else ""
        digits = 2 if name in ("vae_psnr", "ms_per_call") else 3
        values = (f"{e['score'][name]:.{digits}f}" if name in e["score"] else "" for e in history)
        lines.append(f"| {name} | {bar} | {' | '.join(values)} |")
    last = history[-1]["score"]
    again = f"python -m synth.miniature.score --num {last['num']:.0f} --steps {last['num_inference_steps']:.0f}"
    return "\n".join([*lines, f"\nAgain: `{again}`. What was tried on the way: [trials](../TRIALS.md).\n"])


def _readers(readers: dict[str, Any]) -> str:
    table = readers["accuracy"]
    factors = list(table["half-way"])
    lines = [
        "## The factor readers\n",
        'Right answers on 1,000 unseen scenes; "half-way" shows the mean of two values, where "none of these" is '
        "right. The shifted split is drawn in styles that no training saw.\n",
        f"| shown | {' | '.join(factors)} |",
        f"|---|{'---|' * len(factors)}",
    ]
    for shown, shares in table.items():
        lines.append(f"| {shown} | {' | '.join(f'{shares[factor]:.3f}' for factor in factors)} |")
    lines.append(
        "\nOn 1,000 shifted scenes of each kind, true value (row) and answer (column; ? is none of these):\n"
    )
    for factor, counts in readers["confusion"].items():
        answers = list(next(iter(counts.values())))
        lines += [f"| {factor} | {' | '.join(answers)} |", f"|---|{'---|' * len(answers)}"]
        lines += [f"| {value} | {' | '.join(str(row[a]) for a in answers)} |" for value, row in counts.items()]
        lines.append("")
    return "\n".join(lines)


def _parts(folder: Path) -> str:
    lines = ["## Its parts\n", "| part | parameters | on disk |", "|---|---|---|"]
    for part in _PARTS:
        files = sorted((folder / part).glob("*.safetensors"))
        count = 0
        for file in files:
            with safe_open(file, "pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118
                    shape = tensors.get_slice(key).get_shape()
                    count += int(torch.tensor(shape).prod()) if shape else 1
        size = sum(file.stat().st_size for file in files) / 2**20
        lines.append(f"| {part} | {count / 1e6:.2f}M | {size:.1f} MiB |")
    return "\n".join([*lines, ""])


def _training(log: list[dict[str, Any]]) -> str:
    """Each stage's calls, cost and losses."""
    lines = ["## Training\n", "| stage | settings of its last call | steps | minutes | loss: first, last |"]
    lines.append("|---|---|---|---|---|")
    for stage in ("vae", "unet", "decoder", "reader"):
        calls = [entry["call"] for entry in log if entry.get("call", {}).get("stage") == stage]
        rows = [entry for entry in log if entry.get("stage") == stage]
        if not rows:
            continue
        hidden = ("stage", "out", "folder")
        said = ", ".join(f"{key} {value}" for key, value in (calls or [{}])[-1].items() if key not in hidden)
        losses = f"{rows[0]['loss']:.3f}, {rows[-1]['loss']:.3f}"
        lines.append(f"| {stage} | {said} | {rows[-1]['step']} | {rows[-1]['minutes']:.0f} | {losses} |")
    tracked = [entry for entry in log if entry.get("stage") == "samples"]
    if tracked:
        names = [name for name in ("kid", *BARS) if name in tracked[-1]]
        lines += ["\nSamples along the way:\n", f"| minutes | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
        for entry in tracked:
            shown = (f"{entry[name]:.3f}" if name in entry else "" for name in names)
            lines.append(f"| {entry['minutes']:.0f} | {' | '.join(shown)} |")
    machine = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    if torch.cuda.is_available():
        machine = torch.cuda.get_device_name()
    lines.append(f"\nOn {machine}, torch {torch.__version__}. How: `synth/miniature/train.py`.\n")
    return "\n".join(lines)
