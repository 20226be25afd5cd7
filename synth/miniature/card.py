"""Writes the miniature's model card from what its training and its measurements left on disk."""

import hashlib
import json
import os
import platform
import shutil
from pathlib import Path
from string import Template
from typing import Any

import torch
from huggingface_hub import ModelCardData
from pydantic import FiniteFloat
from safetensors import safe_open
from typing_extensions import TypedDict

from synth.errors import TrainingError
from synth.files import write_text
from synth.markdown import table
from synth.miniature.score import BARS
from synth.state import read_json, read_json_lines, reading

_TEMPLATE = Path(__file__).with_name("card_template.md")
_NETWORKS = ("vae", "text_encoder", "unet", "reader")
_GRIDS = ("samples.png", "vae.png")
_SETTINGS_OF_SCORE = ("num", "num_inference_steps", "guidance_scale")  # in `score.json` beside the metrics
_SCORE_AGAIN = "run synth.miniature.score again"
_READ_AGAIN = "run the stage reader again"
_MEND_LOG = "correct what is wrong in it, or take it out"

_Metrics = dict[str, FiniteFloat]


class _Readers(TypedDict):
    """The content of readers.json."""

    accuracy: dict[str, _Metrics]
    confusion: dict[str, dict[str, dict[str, int]]]


class _Weights(TypedDict):
    """The metrics of weights that were shipped, in scores.json."""

    weights: str
    minutes: dict[str, int]
    score: _Metrics


def write_card(folder: Path, out: Path) -> Path:
    """Write `README.md` and its images into the diffusers folder.

    Args:
        folder: assembled, readers included.
        out: the training's folder, with `score.json` of that very folder, `readers.json` and `log.jsonl`.

    Raises:
        TrainingError: if something was not measured yet, or a file is damaged.
    """
    for name in ("score.json", "readers.json", *_GRIDS):
        if not (out / name).exists():
            raise TrainingError(f"{out} has no {name} yet: run the stages vae and reader, and synth.miniature.score")
    score: _Metrics = read_json(out / "score.json", _Metrics, TrainingError, _SCORE_AGAIN)
    readers: _Readers = read_json(out / "readers.json", _Readers, TrainingError, _READ_AGAIN)
    log: list[dict[str, Any]] = read_json_lines(out / "log.jsonl", dict[str, Any], TrainingError, _MEND_LOG)
    # What has the right types may still lack what the page shows.
    with reading(out / "log.jsonl", TrainingError, _MEND_LOG):
        training, minutes = _training(log), _minutes(log)
    with reading(out / "readers.json", TrainingError, _READ_AGAIN):
        accuracy, confusion = _accuracy(readers["accuracy"]), _confusion(readers["confusion"])
    history = _history(folder, score, minutes)
    with reading(folder / "scores.json", TrainingError, _SCORE_AGAIN):
        metrics = _metrics(history)
        settings = {name: f"{score[name]:.0f}" for name in ("num", "num_inference_steps")}
    for name in _GRIDS:
        shutil.copyfile(out / name, folder / name)
    page = Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        front_matter=_front_matter(),
        **settings,
        metrics=metrics,
        accuracy=accuracy,
        confusion=confusion,
        networks=_networks(folder),
        training=training,
        machine=_machine(),
        torch_version=torch.__version__,
    )
    write_text(folder / "README.md", page)
    return folder / "README.md"


def _front_matter() -> str:
    data = ModelCardData(
        license="apache-2.0",
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["synthetic", "test-fixture"],
    )
    return f"---\n{data.to_yaml()}\n---"


def _history(folder: Path, score: _Metrics, minutes: dict[str, int]) -> list[_Weights]:
    """The metrics of all weights that were ever shipped, the present ones last; also kept as `scores.json`."""
    digest = hashlib.sha256()
    for file in sorted((folder / "unet").glob("*.safetensors")):
        digest.update(file.read_bytes())
    path = folder / "scores.json"
    known: list[_Weights] = []
    if path.exists():
        known = read_json(path, list[_Weights], TrainingError, "restore it from the repository")
    entry: _Weights = {"weights": digest.hexdigest()[:12], "minutes": minutes, "score": score}
    # The same weights measured again replace their former entry.
    known = [other for other in known if other["weights"] != entry["weights"]] + [entry]
    write_text(path, json.dumps(known, indent=1) + "\n")
    return known


def _minutes(log: list[dict[str, Any]]) -> dict[str, int]:
    """How long each stage took, by its last line."""
    return {entry["stage"]: round(entry["minutes"]) for entry in log if "step" in entry}


def _metrics(history: list[_Weights]) -> str:
    """A row per metric, a column per weights."""
    columns = []
    for entry in history:
        score, minutes = entry["score"], entry["minutes"]
        trained = " + ".join(str(minutes[stage]) for stage in ("vae", "unet", "decoder") if stage in minutes)
        painted = (
            f"{score['num']:.0f} x {score['num_inference_steps']:.0f} steps, guidance {score['guidance_scale']:g}"
        )
        columns.append(f"{trained} min; {painted}")
    rows = []
    for name in history[-1]["score"]:
        if name in _SETTINGS_OF_SCORE:
            continue
        bar = f"{BARS[name]:g}" if name in BARS else ""
        digits = 2 if name in ("vae_psnr", "ms_per_call") else 3
        # Weights shipped before a metric was introduced have no value for it.
        values = (f"{e['score'][name]:.{digits}f}" if name in e["score"] else "" for e in history)
        rows.append((name, bar, *values))
    return table(("metric", "bar", *columns), rows)


def _accuracy(accuracy: dict[str, dict[str, float]]) -> str:
    factors = list(accuracy["half-way"])
    rows = [(shown, *(f"{shares[factor]:.3f}" for factor in factors)) for shown, shares in accuracy.items()]
    return table(("shown", *factors), rows)


def _confusion(confusion: dict[str, dict[str, dict[str, int]]]) -> str:
    tables = []
    for factor, counts in confusion.items():
        answers = list(next(iter(counts.values())))
        rows = [(value, *(str(row[answer]) for answer in answers)) for value, row in counts.items()]
        tables.append(table((factor, *answers), rows))
    return "\n\n".join(tables)


def _networks(folder: Path) -> str:
    rows = []
    for name in _NETWORKS:
        files = sorted((folder / name).glob("*.safetensors"))
        count = 0
        for file in files:
            with reading(file, TrainingError, "assemble the folder again"), safe_open(file, "pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118
                    shape = tensors.get_slice(key).get_shape()
                    count += int(torch.tensor(shape).prod()) if shape else 1
        size = sum(file.stat().st_size for file in files) / 2**20
        rows.append((name, f"{count / 1e6:.2f}M", f"{size:.1f} MiB"))
    return table(("part", "parameters", "on disk"), rows)


def _training(log: list[dict[str, Any]]) -> str:
    """Each stage's calls, cost and losses, then the metrics of the samples on the way."""
    rows = []
    for stage in ("vae", "unet", "decoder", "reader"):
        calls = [entry["call"] for entry in log if entry.get("call", {}).get("stage") == stage]
        steps = [entry for entry in log if entry.get("stage") == stage]
        if not steps:
            continue
        hidden = ("stage", "out", "folder")
        last_call = calls[-1] if calls else {}
        settings = ", ".join(f"{key} {value}" for key, value in last_call.items() if key not in hidden)
        losses = f"{steps[0]['loss']:.3f}, {steps[-1]['loss']:.3f}"
        rows.append((stage, settings, str(steps[-1]["step"]), f"{steps[-1]['minutes']:.0f}", losses))
    page: str = table(("stage", "settings of its last call", "steps", "minutes", "loss: first, last"), rows)
    scored = [entry for entry in log if entry.get("stage") == "samples"]
    if scored:
        names = [name for name in ("kid", *BARS) if name in scored[-1]]
        rows_of_samples = [
            (f"{entry['minutes']:.0f}", *(f"{entry[name]:.3f}" if name in entry else "" for name in names))
            for entry in scored
        ]
        page += f"\n\nSamples along the way:\n\n{table(('minutes', *names), rows_of_samples)}"
    return page


def _machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"
