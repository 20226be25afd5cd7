"""`benchmarks/demo.py`: what it times, what it refuses, and what it writes into the README."""

import importlib.util
import sys
import time
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_of_the_demo", ROOT / "benchmarks" / "demo.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def row(method: str, scenes: str = "edited", **metrics: float) -> dict[str, Any]:
    common = {"right": 0.9, "psnr_all": 27.0, "psnr_inside": 20.0, "psnr_outside_to_input": 40.0}
    return {"method": method, "scenes": scenes, **common, **metrics}


class SlowUnit:
    """Takes half a second each time, and says that a call takes a quarter."""

    def __init__(self) -> None:
        self.calls = 0
        self.spent = 0.0

    def seconds(self) -> float:
        started = time.perf_counter()
        self.calls += 1
        time.sleep(0.5)
        self.spent += time.perf_counter() - started
        return 0.25


def test_pauses_stop_the_run_and_do_not_count(demo: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "ticks"
    program = f"""
import time
from itertools import pairwise
with open({str(file)!r}, "w") as file:
    while time.process_time() < 0.6:
        print(time.time(), file=file)
"""
    unit, started = SlowUnit(), time.perf_counter()
    measured = demo.measure([sys.executable, "-c", program], unit, every=0.2)
    wall = time.perf_counter() - started
    assert unit.calls >= 3
    assert 0.6 <= measured.seconds <= wall - unit.spent
    assert measured.units == pytest.approx(measured.seconds / 0.25)
    ticks = [float(line) for line in file.read_text().splitlines()]
    gaps = [later - earlier for earlier, later in pairwise(ticks)]
    assert max(gaps) > 0.45, "while the unit ran, the command stood still"


def test_a_demo_that_fails_is_no_measurement(demo: ModuleType) -> None:
    with pytest.raises(SystemExit, match="ended with exit code 3"):
        demo.measure([sys.executable, "-c", "raise SystemExit(3)"], SlowUnit(), every=5)


def test_an_interrupted_benchmark_ends_its_demo(demo: ModuleType, tmp_path: Path) -> None:
    class Interrupted(SlowUnit):
        def seconds(self) -> float:
            if self.calls == 1:
                raise KeyboardInterrupt
            return super().seconds()

    file = tmp_path / "pid"
    program = f"import os, time; open({str(file)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    with pytest.raises(KeyboardInterrupt):
        demo.measure([sys.executable, "-c", program], Interrupted(), every=1.0)
    assert not psutil.pid_exists(int(file.read_text()))


def test_each_missed_bound_is_named(demo: ModuleType) -> None:
    fine = [row("student"), row("vae ceiling", right=0.1), row("student", scenes="no-op", right=0.1)]
    assert demo.missed(demo.Measured(600, 2599), fine) == []
    bad = [row("student", right=0.87, psnr_all=26.4, psnr_outside_to_input=37.9)]
    assert demo.missed(demo.Measured(600, 2700), bad) == [
        "right is 0.870, below 0.88",
        "psnr_all is 26.400, below 26.5",
        "psnr_outside_to_input is 37.900, below 38.0",
        "it takes 2700 calls of the U-Net, more than 2600",
    ]
    assert demo.missed(demo.Measured(600, float("nan")), fine), "what was not measured is not within the bound"


def test_the_table_names_machine_ratio_and_stages(demo: ModuleType) -> None:
    means = [
        row("student"),
        row("pixel network", right=0.8),
        row("do nothing", right=0.0),
        row("vae ceiling"),
        row("student", scenes="no-op"),
    ]
    table = demo.readme_table(
        demo.Measured(480, 1234.4), {"painting": 100.0, "training": 300.0}, means, "2 cores of X"
    )
    assert "takes 8 minutes of 2 cores of X\n(painting 25 %, training 75 %)" in table
    assert "1,234 calls of the" in table
    assert "| the network | 90 % | 27.0 dB | 20.0 dB | 40.0 dB |" in table
    assert "| its pixel network | 80 % | 27.0 dB | 20.0 dB | 40.0 dB |" in table
    assert "| doing nothing | 0 % | 27.0 dB | 20.0 dB | |" in table
    assert table.count("\n| the network") == 1, "no-op scenes are not in it"
    text = f"before\n{demo.BEGIN}\nold\n{demo.END}\nafter\n"
    assert demo.with_table(text, "new") == f"before\n{demo.BEGIN}\nnew\n{demo.END}\nafter\n"
    with pytest.raises(SystemExit, match=r"README\.md has no"):
        demo.with_table("no marks", "new")


def test_the_readme_has_what_the_benchmark_wrote(demo: ModuleType) -> None:
    text = (ROOT / "README.md").read_text()
    table = text.partition(demo.BEGIN)[2].partition(demo.END)[0]
    assert "miniature's U-Net on a batch of 28" in table
    assert "cores of " in table, "a time names its machine"
    assert demo.with_table(text, table.strip()) == text
