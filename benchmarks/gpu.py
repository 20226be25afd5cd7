"""What a GPU does with Stable Diffusion 1.5's shapes, in steps of about a minute, the most telling first.

    python benchmarks/gpu.py [--out runs/gpu.json] [--only ladder-4 decode ...]      # `make gpu`
    python benchmarks/gpu.py --tiny                                           # the same plan in small, on a CPU

    ladder-K    a training step of two images and K edits: teacher inside autocast and outside of it, with the
                student in channels_last, and with cuDNN's search; ms and peak memory
    compiled    the same with four edits, the networks compiled block by block
    fit-KIND    trainings in 24 and in 12 GiB: do they run, and how far is the estimate off
    score       error of the miniature's score at guidance 25 in half precision, over float32's
    painting    an image by PNDM in 50 steps, and by DPM-Solver++ in 25
    checkpoint  seconds to begin a checkpoint, to end it, and to restore it
    files       what a model file computes, an image of 512 px, in PyTorch, TorchScript, pt2 and ONNX Runtime;
                img2img-turbo reports 0.11 s on an A100
    decode      ten latents of 1024 px through the VAE
    demo        the miniature's whole `demo`

Random weights cost the same as trained ones; their images mean nothing. Each step has a process of its own, and its
result is printed and written when it is there. A step whose package is missing says "not run: NAME".
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gpu_steps
import gpu_training
import torch
from gpu_shared import Result
from processes import Died, in_own_process, one_line

from flows.orchestration.environment import quiet_libraries
from synth.files import write_text

_SECONDS = 180  # of one step, at most


def main() -> None:
    """Run the command line."""
    plan = _plan()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu.json"))
    parser.add_argument("--only", nargs="+", choices=list(plan), default=list(plan), metavar="STEP")
    parser.add_argument("--tiny", action="store_true", help="small shapes on a CPU, to try the plan")
    args = parser.parse_args()
    if not args.tiny and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU; --tiny tries the plan in small on a CPU")
    card = "cpu, tiny shapes" if args.tiny else torch.cuda.get_device_name()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"device": card, "torch": torch.__version__, "python": platform.python_version()}
    print(f"{card}, torch {torch.__version__}")
    for name in args.only:
        results[name] = run(partial(plan[name], args.tiny))
        write_text(args.out, json.dumps(results, indent=2) + "\n")
        for key, value in results[name].items():
            print(f"{name:11} {key:28} {value}", flush=True)
    print(f"written to {args.out}")


def run(step: Callable[[], Result], seconds: float = _SECONDS) -> Result:
    """Take one step in a process of its own; what goes wrong is its result."""
    started = time.perf_counter()
    try:
        result = in_own_process(partial(_guarded, step), seconds)
    except TimeoutError:
        return {"not run": f"took more than {seconds:.0f} s"}
    except Died as error:
        result = {"failed": str(error)}
    return {**result, "seconds": round(time.perf_counter() - started, 1)}


def _guarded(step: Callable[[], Result]) -> Result:
    quiet_libraries()
    try:
        return step()
    except ModuleNotFoundError as error:
        return {"not run": error.name}
    except Exception as error:  # one step that fails leaves the others
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


def _plan() -> dict[str, Callable[[bool], Result]]:
    return {
        **{f"ladder-{num}": partial(gpu_training.ladder, num) for num in (4, 1, 6)},
        "compiled": gpu_training.compiled,
        **{f"fit-{kind}": partial(gpu_training.fit, kind) for kind in gpu_training.FITS},
        **{name: getattr(gpu_steps, name) for name in ("score", "painting")},
        "checkpoint": gpu_training.checkpoint,
        **{name: getattr(gpu_steps, name) for name in ("files", "decode", "demo")},
    }


if __name__ == "__main__":
    one_line(main)()
