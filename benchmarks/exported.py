"""Time of a run's model files, compared with PyTorch's call of the same networks, in one run.

    distillery export runs/demo --format onnx,torchscript,pt2 --precision float32,float16,int8
    python benchmarks/exported.py runs/demo [--rounds 20] [--threads 1] [--batch-size 8]

    eager      PyTorch's call of the networks, to which all others are compared
    compact    the same with an untrained compact student instead of the run's student
    model.*    each file that the run has, by ONNX Runtime or by torch; without torch's in float16, for which a CPU
               takes a hundred times as long
    openvino   model.onnx by OpenVINO, in float32 and in what it chooses by itself, if it is installed: with how far
               its answers are from ONNX Runtime's
    encoder, student, decoder      the networks of the eager call, as shares of its time
    zero-shot  200 iterations of DDS on an image, from pixels to pixels, over the eager call; and the iterations over
               the student's pass

Latency is of one image, throughput of a batch, both at the training size. All take turns, so that other load on the
machine falls on all of them.
"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import, or ONNX Runtime calls home

import numpy as np
import onnxruntime as ort
import torch
from PIL import Image
from processes import one_line
from turns import medians

from distill.optimization import optimize
from distill.settings import EditSettings, TrainingSettings
from distill.students import CompactStudent, load_student
from distill.zero_shot import edit
from flows.run.folder import RunFolder
from flows.shared_teacher import open_teacher
from inference.export.formats import INPUTS, open_file, read_metadata
from inference.export.modules import ExportModule
from inference.settings import EVERY_KIND
from synth.teacher.teacher import Teacher

Feeds = dict[str, np.ndarray]
Work = Callable[[Feeds], object]
Works = dict[str, Work]

_ZERO_SHOT_ROUNDS = 3


@one_line
def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1, help="for PyTorch and for ONNX Runtime (default: 1)")
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    run = RunFolder(args.run)
    teacher = open_teacher(run.load_recipe().teacher)
    student = load_student(run.student)
    module = ExportModule(teacher.vae, student)
    compact = ExportModule(teacher.vae, CompactStudent.from_teacher(teacher, student.edits, TrainingSettings()))
    size = read_metadata(run.model)["training_size"]
    num_edits = len(student.edits)
    works: Works = {"eager": _eager(module), "compact": _eager(compact)}
    for kind in EVERY_KIND:
        path = run.path / kind.file_name
        if not path.exists() or (kind.format != "onnx" and kind.precision == "float16"):
            continue
        works[path.name] = _session(path, args.threads) if kind.format == "onnx" else open_file(path, kind.format)

    works |= _openvino(run.model, args.threads)
    _print_parity(works, _feeds(2, size, num_edits))
    print(f"{'':26} latency  throughput   (times as fast as eager; {args.threads} threads, {size} px)")
    single = _medians(works, _feeds(1, size, num_edits), args.rounds)
    batch = _medians(works, _feeds(args.batch_size, size, num_edits), args.rounds)
    for name in works:
        print(f"{name:26} {single['eager'] / single[name]:7.2f}  {batch['eager'] / batch[name]:10.2f}")

    networks = _networks(module, _feeds(1, size, num_edits))
    spent = _medians(networks, {}, args.rounds)
    print(*(f"{name} {spent[name] / sum(spent.values()):.0%}" for name in networks), sep=", ")

    # Far slower than all else, so that fewer rounds must do.
    slow: Works = _zero_shot(teacher, next(iter(student.edits.values())), size)
    quick: Works = {"eager": works["eager"], "student": networks["student"]}
    times = _medians({**slow, **quick}, _feeds(1, size, num_edits), _ZERO_SHOT_ROUNDS)
    print(
        f"zero-shot takes {times['edit'] / times['eager']:.0f} times as long as the eager call of one image, ", end=""
    )
    print(f"its iterations {times['iterations'] / times['student']:.0f} times as long as the student's pass")


def _feeds(count: int, size: int, num_edits: int) -> Feeds:
    rng = np.random.default_rng(0)
    return {
        "image": rng.uniform(-1, 1, (count, 3, size, size)).astype(np.float32),
        "edit": np.arange(count) % num_edits,
        "strength": np.ones(count, np.float32),
    }


def _medians(works: Works, feeds: Feeds, rounds: int) -> dict[str, float]:
    return medians({name: partial(work, feeds) for name, work in works.items()}, rounds)


def _eager(module: ExportModule) -> Work:
    def run(feeds: Feeds) -> object:
        with torch.no_grad():
            return module(*(torch.from_numpy(feeds[name]) for name in INPUTS))

    return run


def _session(path: Path, threads: int) -> Work:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(["translated"], feeds)


def _openvino(path: Path, threads: int) -> Works:
    """OpenVINO on the ONNX file; nothing where it is not installed."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # or the import calls home
    if find_spec("openvino") is None:
        return {}
    import openvino

    core = openvino.Core()
    network = core.read_model(path)
    works: Works = {}
    for name, precision in (("openvino, float32", {"INFERENCE_PRECISION_HINT": "f32"}), ("openvino", {})):
        compiled = core.compile_model(network, "CPU", {"INFERENCE_NUM_THREADS": threads, **precision})
        works[name] = lambda feeds, compiled=compiled: compiled(feeds)["translated"]
    return works


def _print_parity(works: Works, feeds: Feeds) -> None:
    """How far OpenVINO's answers are from ONNX Runtime's, in pixels of [-1, 1]."""
    (want,) = works["model.onnx"](feeds)  # type: ignore[misc]
    for name, work in works.items():
        if name.startswith("openvino"):
            print(f"{name}: at most {np.abs(work(feeds) - want).max():.1e} from ONNX Runtime")


def _networks(module: ExportModule, feeds: Feeds) -> Works:
    """The three networks of one eager call, each on its input there."""
    image = torch.from_numpy(feeds["image"])
    edit = torch.from_numpy(feeds["edit"])
    with torch.no_grad():
        z = module.vae.encode(image).latent_dist.mode()
    works = {
        "encoder": lambda: module.vae.encode(image),
        "student": lambda: module.student(z, edit),
        "decoder": lambda: module.vae.decode(torch.cat([z, z])),  # it decodes the edited latent and the plain one
    }

    def without_gradients(work: Callable[[], object]) -> Work:
        return lambda _: torch.no_grad()(work)()

    return {name: without_gradients(work) for name, work in works.items()}


def _zero_shot(teacher: Teacher, prompt: str, size: int) -> Works:
    settings = EditSettings(iterations=200)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8))
    side = size // teacher.vae_scale_factor
    z_hat = torch.randn((1, teacher.latent_channels, side, side)).to(teacher.device)
    y = teacher.encode_prompt([prompt])
    return {
        "edit": lambda _: edit(teacher, image, prompt, "", settings),
        "iterations": lambda _: optimize(teacher, z_hat, y, teacher.null, settings),
    }


if __name__ == "__main__":
    main()
