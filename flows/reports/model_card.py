"""A run's model card: what the Hub shows, and what whoever gets the model must know."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.config.naming import slug
from flows.config.schema import Recipe
from flows.reports.tables import markdown_table, scenes_of
from flows.run.folder import RunFolder
from synth.files import write_bytes

_USE = """## How to use it

```python
from inference.runtime import Translator  # one file of dds-distillery: numpy, Pillow and onnxruntime alone

translator = Translator.load("hf://{repo}")
translator("photo.jpg", "{edit}").save("edited.png")
```

`strength` goes from 0, the input's own pixels, over 1, the edit as trained, and beyond. `student/` is the same
network for PyTorch, a diffusers model: `distill.students.load_student`.

## Intended use, and misuse

Made to edit images of the kind that it was trained on; on others it may change nothing, or what nobody asked for.
It carries the biases of its teacher, and an edit may show them. Do not use it to deceive, or on images of people
without their consent. The teacher's licence binds it too.
"""


_NETWORKS = {"unet": "the teacher's own U-Net, distilled", "compact": "a small convolutional U-Net"}


def write_model_card(recipe: Recipe, out: Path, repo: str = "") -> Path:
    """Write README.md into the run folder.

    Args:
        recipe: of the run.
        out: the run folder, exported.
        repo: owner/name, where it will lie on the Hub; left out, the example in it says so.
    """
    from inference.runtime import Translator

    run = RunFolder(out)
    metadata = Translator.load(run.model, ["cpu"]).metadata
    pictures = "photographs" if recipe.scenes is None else f"{recipe.scenes.count} painted images"
    lora = f", trained by LoRA of rank {recipe.training.lora_rank}" if recipe.training.lora_rank else ""
    parts = [_header(recipe, metadata), f"# {recipe.name}\n\n"]
    parts.append(f"{len(metadata['edits'])} edits, each in one pass of a network that was distilled with the ")
    parts.append("Delta Denoising Score ([arXiv 2304.07090](https://arxiv.org/abs/2304.07090)).\n")
    if run.grid.exists():
        parts.append("\n![input, translated, true counterfactual](grid.png)\n")
    parts.append("\n| edit | as in |\n|---|---|\n")
    parts += [f"| `{name}` | {prompt} |\n" for name, prompt in metadata["edits"].items()]
    parts.append(
        f"\n- teacher: {metadata['teacher']}; its licence: {metadata['licence']}\n"
        f"- trained on {pictures} of {metadata['training_size']} px "
        f"(fingerprint {metadata['data_fingerprint']}), {recipe.training.steps} steps\n"
        f"- network: {_NETWORKS[recipe.training.student]}{lora}\n"
        f"- validated on: {metadata['validated_on']}\n\n"
    )
    parts.append(_USE.format(repo=repo or f"OWNER/{slug(recipe.name)}", edit=next(iter(metadata["edits"]))))
    parts.append("\n## Numbers\n\n")
    if (evaluation := run.read_evaluation()) is not None:
        parts.append(
            f"{scenes_of(evaluation)}. They say what the method did to drawn scenes, and nothing about photographs."
            f"\n\n{markdown_table(evaluation)}\n"
        )
    else:
        parts.append("None: drawn scenes cannot judge this teacher.\n")
    card = out / "README.md"
    write_bytes(card, "".join(parts).encode())
    return card


def _header(recipe: Recipe, metadata: Mapping[str, Any]) -> str:
    """The YAML that the Hub reads. JSON is YAML, quotes included."""
    licence = metadata["licence"]
    known = re.fullmatch(r"[a-z0-9.-]+", licence)  # as the Hub writes them: apache-2.0, creativeml-openrail-m
    lines = {
        "license": licence if known else "other",
        "pipeline_tag": "image-to-image",
        "library_name": "onnx",
        "tags": ["image-editing", "delta-denoising-score", "dds-distillery"],
    }
    if recipe.teacher.id.count("/") == 1 and not Path(recipe.teacher.id).exists():
        lines["base_model"] = recipe.teacher.id
    return "---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in lines.items()) + "---\n"
