"""Wall time of `make demo`, in calls of the miniature's U-Net, and the quality that it reaches, in one run.

    python benchmarks/demo.py [--out runs/demo-measured] [--every 15] [--write]

unit       one call of the miniature's U-Net on a batch of 28, in float32, on as many threads as the demo has
time       the run's wall time over the unit, packages installed: at most 2,600
quality    on 200 unseen scenes of the test split, where the demo itself measures on 50

Every `--every` seconds the run is paused for two calls of the unit, so that other load on the machine falls on both
alike; the pauses do not count. --write puts the table into README.md. It ends with exit code 1 if a bound is missed.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from synth.cpu import prepare_cpu
from synth.files import write_text
from synth.settings import TeacherSettings
from synth.teacher.teacher import Teacher

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- made by benchmarks/demo.py --write -->", "<!-- end of the demo's table -->"
_BATCH = 28
_NUM_SCENES = 200
MAX_UNITS = 2600
MIN_RIGHT, MIN_PSNR, MIN_PSNR_OUTSIDE = 0.88, 26.5, 38.0  # a share, and dB
_COMMAND = (sys.executable, "-c", "from flows.cli import main; main()")
_MEANS = {
    "student": "the network",
    "pixel network": "its pixel network",
    "do nothing": "doing nothing",
    "vae ceiling": "the VAE's ceiling",
}


@dataclass(frozen=True)
class Measured:
    """What a run took."""

    seconds: float
    """Without the pauses."""
    units: float
    """In calls of the U-Net, each stretch of the run over the calls at its two ends."""


class Unit:
    """A call of the miniature's U-Net, which is timed again and again."""

    def __init__(self) -> None:
        teacher = Teacher.load(TeacherSettings(id="miniature", device="cpu"))
        side = teacher.defaults.image_size // teacher.vae_scale_factor
        latents = torch.zeros((_BATCH, teacher.latent_channels, side, side))
        timesteps = torch.full((_BATCH,), 500)
        texts = teacher.null.expand(_BATCH)
        self._call = lambda: teacher.predict_noise_unguided(latents, timesteps, texts)
        for _ in range(3):
            self._call()

    def seconds(self) -> float:
        """Time one call; another one before it wakes the threads."""
        self._call()
        started = time.perf_counter()
        self._call()
        return time.perf_counter() - started


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="Keep the run in this new folder. (default: a temporary one)")
    parser.add_argument("--every", type=float, default=15.0, help="Seconds of the run between two measurements.")
    parser.add_argument("--write", action="store_true", help="Write the table into README.md.")
    args = parser.parse_args()
    if args.out is not None and args.out.exists():
        parser.error(f"{args.out} exists already: a run that goes on is not a whole one; name a new folder")
    prepare_cpu()
    with tempfile.TemporaryDirectory(prefix="distillery-demo-") as scratch:
        out = args.out or Path(scratch) / "demo"
        measured = measure([*_COMMAND, "run", "demo", "--out", str(out)], Unit(), args.every)
        shares = json.loads((out / "timings.json").read_text())
        scenes = ["evaluate", "student", str(out), "--split", "test", "--num-scenes", str(_NUM_SCENES)]
        subprocess.run([*_COMMAND, *scenes], check=True, stdout=subprocess.DEVNULL)
        means = json.loads((out / f"evaluation-test-{_NUM_SCENES}.json").read_text())["means"]
    table = readme_table(measured, shares, means, machine())
    print(table)
    if args.write:
        write_text(README, with_table(README.read_text(), table))
    sys.exit("\n".join(missed(measured, means)) or None)


def measure(command: list[str], unit: Unit, every: float) -> Measured:
    """Time a command, and pause it again and again to time the unit.

    Args:
        command: what runs, in a session of its own.
        unit: what it is compared with.
        every: seconds that the command runs between two pauses.

    Raises:
        SystemExit: if the command fails.
    """
    before = unit.seconds()
    seconds = units = 0.0
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            while process.poll() is None:
                started = time.perf_counter()
                try:
                    process.wait(every)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGSTOP)
                ran = time.perf_counter() - started
                after = unit.seconds()
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGCONT)
                seconds += ran
                units += ran / ((before + after) / 2)
                before = after
        finally:
            # After Ctrl-C, too: nothing stays behind, paused or running.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                os.killpg(process.pid, signal.SIGCONT)
    if process.returncode:
        sys.exit(f"the demo ended with exit code {process.returncode}")
    return Measured(seconds, units)


def machine() -> str:
    """Name the processor and the number of threads."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return f"{torch.get_num_threads()} cores of {name}, no GPU"


def readme_table(measured: Measured, shares: dict[str, float], means: list[dict[str, Any]], where: str) -> str:
    """The README's paragraph and table, in Markdown.

    Args:
        measured: of the whole run.
        shares: stage -> seconds.
        means: the evaluation's means over the edits.
        where: the machine.
    """
    minutes = measured.seconds / 60
    of_stages = ", ".join(f"{name} {100 * seconds / sum(shares.values()):.0f} %" for name, seconds in shares.items())
    rows = [
        f"| {_MEANS[row['method']]} | {100 * row['right']:.0f} % "
        f"| {row['psnr_all']:.1f} dB | {row['psnr_inside']:.1f} dB | "
        + ("|" if row["method"] == "do nothing" else f"{row['psnr_outside_to_input']:.1f} dB |")
        for row in means
        if row["scenes"] == "edited"
    ]
    return "\n".join(
        [
            f"With its packages there, `make demo` takes {minutes:.0f} minutes of {where}",
            f"({of_stages}): as long as {measured.units:,.0f} calls of the",
            f"miniature's U-Net on a batch of {_BATCH}.",
            f"On {_NUM_SCENES} unseen drawn rooms, as means over the six edits:",
            "",
            "| | factor right | PSNR | inside | outside, to the input |",
            "|---|---:|---:|---:|---:|",
            *rows,
        ]
    )


def with_table(text: str, table: str) -> str:
    """Replace what stands between the two marks.

    Raises:
        SystemExit: if a mark is missing.
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        sys.exit(f"README.md has no {BEGIN} followed by {END}")
    return f"{head}{begin}\n{table}\n{end}{tail}"


def missed(measured: Measured, means: list[dict[str, Any]]) -> list[str]:
    """Say which bounds the demo misses."""
    (student,) = (row for row in means if (row["method"], row["scenes"]) == ("student", "edited"))
    bounds = (("right", MIN_RIGHT), ("psnr_all", MIN_PSNR), ("psnr_outside_to_input", MIN_PSNR_OUTSIDE))
    lines = [f"{name} is {student[name]:.3f}, below {bound}" for name, bound in bounds if not student[name] >= bound]
    if not measured.units <= MAX_UNITS:
        lines.append(f"it takes {measured.units:.0f} calls of the U-Net, more than {MAX_UNITS}")
    return lines


if __name__ == "__main__":
    main()
