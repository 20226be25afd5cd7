"""What a pixel network costs beside the student that it learned from, and how many frames a second that makes.

    python benchmarks/live.py runs/sofas [--rounds 10]

speed      calls of the two ONNX files on one thread, at several sizes, in turns: how many times as fast
frames     a call of the pixel network's file on two threads, over one call of the miniature's U-Net on a batch of 28
           on as many: frames a second of that machine's, and of one whose U-Net takes another time

Only the networks' calls are timed; `docs/in-an-app.md` has the frames a second of the whole page.
"""

import argparse
import os
from functools import partial
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import, or ONNX Runtime calls home

import numpy as np
import onnxruntime as ort
import torch
from processes import one_line
from turns import Work, in_turns, median_ratio, medians

from flows.run.folder import RunFolder
from synth.settings import TeacherSettings
from synth.teacher.teacher import Teacher

_SIZES = (128, 256, 512)  # px
_BATCH = 28  # latents of a call of the U-Net


@one_line
def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    run = RunFolder(args.run)
    models = {"student": run.model, "pixel network": run.pixel_model}

    for size in _SIZES[:2]:
        spent = in_turns({name: call(model, size, 1) for name, model in models.items()}, args.rounds)
        ratio = median_ratio(spent, "student", "pixel network")
        print(f"{size} px, one thread: {ratio:.1f} times as fast as the student", flush=True)

    torch.set_num_threads(2)
    works = {str(size): call(run.pixel_model, size, 2) for size in _SIZES}
    seconds = medians({"unit": unit(), **works}, args.rounds)
    print(f"a call of the U-Net on {_BATCH} latents, two threads: {seconds['unit']:.3f} s")
    for size in _SIZES:
        share, frames = seconds[str(size)] / seconds["unit"], 1 / seconds[str(size)]
        print(f"{size} px, two threads: {share:.3f} of that call, {frames:.0f} frames a second", flush=True)


def call(model: Path, size: int, threads: int) -> Work:
    """One image of `size` px through a model file, at that size."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    feeds = {
        "image": np.random.default_rng(0).uniform(-1, 1, (1, 3, size, size)).astype(np.float32),
        "edit": np.zeros(1, np.int64),
        "strength": np.ones(1, np.float32),
    }
    return partial(session.run, ["translated"], feeds)


def unit() -> Work:
    """One call of the miniature's U-Net."""
    teacher = Teacher.load(TeacherSettings(id="miniature", device="cpu"))
    side = teacher.defaults.image_size // teacher.vae_scale_factor
    latents = torch.zeros((_BATCH, teacher.latent_channels, side, side))
    timesteps, texts = torch.full((_BATCH,), 500), teacher.null.expand(_BATCH)
    return lambda: teacher.predict_noise_unguided(latents, timesteps, texts)


if __name__ == "__main__":
    main()
