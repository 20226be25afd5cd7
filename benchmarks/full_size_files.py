"""Model files at the true size of Stable Diffusion 1.5: its shapes at 512 px, with random weights.

    python benchmarks/full_size_files.py unet compact compact-tiny [--rounds 3]

    unet           the U-Net student, 860 million weights, between the teacher's own VAE
    compact        the compact student there
    compact-tiny   the compact student between a VAE of TAESD's shape

Each is exported and held to parity as any file is; then one image goes through PyTorch and through ONNX Runtime, in
turns: on a CPU in float32, on a GPU in float16. Random weights cost what trained ones do and show nothing. Each has a
process to itself. Beside it stands what others publish: img2img-turbo takes 0.11 s an image on an A100.
"""

import argparse
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from full_size import full_size_teacher
from torch import nn
from turns import Work, medians

from distill.students import CompactStudent, Student, UNetStudent
from inference.export.files import ExportModule, export_files
from inference.export.formats import INPUTS
from inference.runtime import Translator
from inference.settings import MAIN, Kind, ModelMetadata
from synth.memory import peak_memory_bytes

_SIDE = 512
_EDITS = {"red": "a red sofa", "blue": "a blue sofa"}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=["unet", "compact", "compact-tiny"])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    for what in args.what:
        with get_context("spawn").Pool(1) as process:
            print(process.apply(_measure, (what, args.rounds)), flush=True)


def _measure(what: str, rounds: int) -> str:
    teacher = full_size_teacher("cpu")
    student: Student
    if what == "unet":
        student = UNetStudent.from_teacher(teacher, _EDITS)
        last = student.unet.conv_out
    else:
        student = CompactStudent.from_teacher(teacher, _EDITS)
        last = next(part for part in reversed(list(student.modules())) if isinstance(part, nn.Conv2d))
    nn.init.normal_(last.weight, std=0.02)  # an untrained student changes nothing, which no parity could miss
    vae = AutoencoderTiny().eval() if what.endswith("tiny") else teacher.vae
    painter = next(part for part in reversed(list(vae.decoder.modules())) if isinstance(part, nn.Conv2d))
    painter.weight.data.mul_(0.1)  # random networks are rougher than trained ones, and no parity is of their kind
    cuda = torch.cuda.is_available()
    kind = Kind("onnx", "float16") if cuda else MAIN
    metadata = ModelMetadata(
        name=what,
        edits=student.edits,
        training_size=_SIDE,
        teacher="random weights",
        licence="none",
        data_fingerprint="none",
        validated_on="nothing",
    )
    images = np.random.default_rng(0).integers(0, 256, (3, _SIDE, _SIDE, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / kind.file_name
        started = time.perf_counter()
        ((_, report),) = export_files(vae, student, metadata, {kind: path}, images)
        exported = time.perf_counter() - started
        num_bytes = sum(file.stat().st_size for file in Path(folder).iterdir())
        seconds = medians(_ways(ExportModule(vae, student), path, cuda), rounds)
    peak = peak_memory_bytes("cpu") / 2**30
    return (
        f"{what:13} {seconds['PyTorch']:.2f} s an image in PyTorch, {seconds['ONNX Runtime']:.2f} in ONNX Runtime; "
        f"{num_bytes / 2**20:.0f} MiB, within {report.max_difference:.1e} of PyTorch; exported and checked in "
        f"{exported:.0f} s, {peak:.1f} GiB at most"
    )


def _ways(module: ExportModule, path: Path, cuda: bool) -> dict[str, Work]:
    feeds = {
        "image": np.random.default_rng(1).uniform(-1, 1, (1, 3, _SIDE, _SIDE)).astype(np.float32),
        "edit": np.zeros(1, np.int64),
        "strength": np.ones(1, np.float32),
    }
    session = Translator.load(path)._session
    if cuda:
        module = ExportModule(module.vae, module.student, torch.float16).cuda()
    inputs = [torch.from_numpy(feeds[name]).to("cuda" if cuda else "cpu") for name in INPUTS]

    def in_pytorch() -> torch.Tensor:
        with torch.no_grad():
            return module(*inputs).cpu()  # which also waits for a GPU

    return {"PyTorch": in_pytorch, "ONNX Runtime": lambda: session.run(["translated"], feeds)}


if __name__ == "__main__":
    main()
