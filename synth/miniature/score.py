"""The bars that the miniature is held to, printed: `python -m synth.miniature.score --num 200`."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from synth.miniature.captions import with_article
from synth.miniature.readers import FactorReader
from synth.miniature.world import WorldScene, render, sample_scene

WEIGHTS = Path(__file__).parent / "weights"
_FLOORS = {"wooden": "a wooden floor", "tiled": "a tiled floor", "carpeted": "a carpeted floor"}
_WEATHER = {
    "clear": "on a clear day",
    "snowing": "in the snow",
    "sunset": "at sunset",
    "rainbow": "under a rainbow",
}


def full_caption(scene: WorldScene) -> tuple[str, dict[str, str]]:
    """A caption, and the factors that it names."""
    f = dict(scene.factors)
    if scene.kind == "room":
        sofa = with_article(f"{f['color']} {f['material']} sofa")
        rug = "" if f["rug"] == "none" else f" and a {f['rug']} rug"
        named = ["color", "material", "wall", "floor"] + (["rug"] if rug else [])
        return f"{sofa} in a living room with {f['wall']} walls, {_FLOORS[f['floor']]}{rug}", {k: f[k] for k in named}
    if scene.kind == "plant":
        subject = f"a potted plant in {with_article(f['pot'] + ' pot')}"
        if f["flower"] != "none":
            subject = f"{f['flower']} in {with_article(f['pot'] + ' pot')}"
        weather = f" {_WEATHER[f['weather']]}" if "weather" in f else ""
        named = ["flower", "pot", "place"] + (["weather"] if weather else [])
        return f"a photo of {subject} in a {f['place']}{weather}", {k: f[k] for k in named}
    glasses = " and glasses" if f["glasses"] == "glasses" else ""
    hair = f"{f['hair_style']} hair" if f["character"] == "sculpture" else f"{f['hair_style']} {f['hair_color']} hair"
    named = ["character", "hair_style"] + ([] if f["character"] == "sculpture" else ["hair_color"])
    caption = f"a photo of {with_article(f['character'])} with {hair}{glasses}"
    return caption, {k: f[k] for k in named + (["glasses"] if glasses else [])}


def score(
    folder: Path, out: Path, num: int = 200, device: str = "cpu", reader: Path | None = None
) -> dict[str, float]:
    """Paint `num` unseen captions with plain diffusers, read them, and reconstruct as many unseen drawings.

    Writes `samples.png` and `score.json` to `out`. Returns the shares of factors that read as the caption says,
    the share of pictures in which all of them do, and the VAE's PSNR in dB.
    """
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder).to(device)
    pipeline.set_progress_bar_config(disable=True)
    defaults = json.loads((folder / "distillery.json").read_text())
    scenes = [sample_scene("development", 100_000 + index) for index in range(num)]
    written = [full_caption(scene) for scene in scenes]
    images: list[NDArray[np.uint8]] = []
    for start in range(0, num, 25):
        batch = [caption for caption, _ in written[start : start + 25]]
        generators = [torch.Generator("cpu").manual_seed(start + offset) for offset in range(len(batch))]
        painted = pipeline(
            batch,
            num_inference_steps=defaults["num_inference_steps"],
            guidance_scale=defaults["guidance_scale"],
            generator=generators,
            output_type="np",
        ).images
        images.extend((painted * 255).round().astype(np.uint8))
    _grid(images[:60], out / "samples.png")
    result = {"vae_psnr": _vae_psnr(pipeline.vae, scenes, device)}
    for index in range(4):
        print(written[index][0])
    if reader is not None or (out / "reader" / "reader.safetensors").exists():
        answers = FactorReader.load(reader or out / "reader").read(np.stack(images))
        right: dict[str, list[bool]] = {}
        everything = []
        for index, (_, named) in enumerate(written):
            hits = {factor: answers[factor][index] == value for factor, value in named.items()}
            for factor, hit in hits.items():
                right.setdefault(factor, []).append(hit)
            everything.append(all(hits.values()))
        result |= {factor: float(np.mean(hits)) for factor, hits in right.items()}
        result["everything"] = float(np.mean(everything))
    result = {key: round(value, 4) for key, value in result.items()}
    (out / "score.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result), flush=True)
    return result


@torch.no_grad()
def _vae_psnr(vae: Any, scenes: list[WorldScene], device: str) -> float:
    values = []
    for start in range(0, len(scenes), 25):
        drawn = np.stack([render(scene).image for scene in scenes[start : start + 25]])
        x = torch.from_numpy(drawn).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        y = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        error = (((x - y) / 2) ** 2).mean(dim=(1, 2, 3))
        values.extend((-10 * error.log10()).tolist())
    return float(np.mean(values))


def _grid(images: list[NDArray[np.uint8]], path: Path, columns: int = 12) -> None:
    images = images[: len(images) // columns * columns] or images
    columns = min(columns, len(images))
    rows = [np.concatenate(images[start : start + columns], axis=1) for start in range(0, len(images), columns)]
    Image.fromarray(np.concatenate(rows)).save(path)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=WEIGHTS)
    parser.add_argument("--out", type=Path, default=Path("runs/miniature-score"))
    parser.add_argument("--num", type=int, default=200)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    score(args.folder, args.out, args.num, args.device, reader=args.folder / "reader")


if __name__ == "__main__":
    main()
