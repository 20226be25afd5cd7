"""Several processes train the same student as one."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from several_processes import NUM_STEPS, SCENES, VARIANTS, descend
from workplace import wait_for

from distill.training import checkpoints
from distill.training.objective import check_processes
from flows.config.loading import load_recipe
from flows.orchestration.children import ReportedError, first_error
from flows.orchestration.retries import is_transient
from flows.run.folder import RunFolder
from flows.shared_teacher import open_teacher
from flows.stages.distill import distill_flow
from flows.training.launcher import distill_together
from synth.dataset.building import synthesize
from synth.dataset.image_dataset import ImageDataset
from synth.errors import TrainingError
from synth.teacher.teacher import Teacher

ROOT = Path(__file__).parents[2]
# accelerate calls torchrun --multi_gpu, with or without GPUs; --cpu would need MPI.
LAUNCH = (sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu")


@pytest.fixture(scope="module")
def painted(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("painted")
    synthesize(tiny_teacher, SCENES, folder, progress=False)
    return folder


def launch(*command: str | Path, port: int, num_processes: int = 2) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    arguments = [*LAUNCH, "--num_processes", str(num_processes), "--main_process_port", str(port), *map(str, command)]
    ended = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stderr[-3000:]


def test_four_processes_have_the_gradient_of_one(
    tiny_teacher: Teacher, tiny_sd_folder: Path, painted: Path, tmp_path: Path
) -> None:
    """Two images with three edits each are six pairs: the shares of four processes cut through the images."""
    file = tmp_path / "four.safetensors"
    script = ROOT / "tests" / "support" / "several_processes.py"
    launch(script, tiny_sd_folder, painted, file, port=29517, num_processes=4)
    ranks = [load_file(file.with_suffix(f".{rank}")) for rank in range(4)]
    one = descend(tiny_teacher, ImageDataset(painted), painted / "latents")
    for rank in ranks:
        assert rank.keys() == one.keys()
        for kind in [f"{variant}/{what}" for variant in VARIANTS for what in ("gradient", "weight")]:
            of_one, of_rank = (
                torch.cat([tensor.flatten() for name, tensor in sorted(tensors.items()) if name.startswith(kind)])
                for tensors in (one, rank)
            )
            assert of_one.norm() > 0
            assert (of_rank - of_one).norm() / of_one.norm() < 1e-5, kind
    # Each process has work: 1, 2, 1 and 2 pairs, and the source branch once an image, each with and without text.
    for variant, counts in {"all": [4, 6, 4, 6], "micro": [4, 6, 4, 6], "two": [4, 4, 4, 4]}.items():
        assert [float(rank[f"{variant}/latents"]) for rank in ranks] == counts, variant
    assert float(one["all/latents"]) == float(one["micro/latents"]) == 2 * (2 + 2 * 3)
    assert NUM_STEPS > 1


def test_more_processes_than_pairs_are_refused(recipe: Path) -> None:
    with pytest.raises(TrainingError, match=r"3 images x 2 edits = 6: start at most 6 processes, .*batch_size to 4$"):
        check_processes(load_recipe(recipe).training, 2, 7)
    check_processes(load_recipe(recipe).training, 2, 6)
    one_edit = load_recipe(recipe, ["training.edits_per_image=1"]).training
    with pytest.raises(TrainingError, match="3 images x 1 edits = 3: start at most 3"):
        check_processes(one_edit, 2, 4)


@pytest.fixture
def recipe(tiny_sd_folder: Path, tmp_path: Path) -> Path:
    file = tmp_path / "small.toml"
    file.write_text(
        f"""
        name = "small"
        [teacher]
        id = "{tiny_sd_folder}"
        [scenes]
        template = "{SCENES.template}"
        count = 5
        slots = {{ color = ["red", "blue", "green"], material = ["leather", "fabric"] }}
        [edits]
        red-leather = {{ color = "red", material = "leather" }}
        blue = {{ color = "blue" }}
        [training]
        preset = "short"
        steps = 2
        batch_size = 3
        """
    )
    return file


def test_the_command_trains_in_several_processes(recipe: Path, painted: Path, tmp_path: Path) -> None:
    """Two processes share three images with two edits each. Only the main process writes the run folder."""
    script = tmp_path / "distillery.py"
    script.write_text("from flows.cli import main\n\nmain()\n")
    out = tmp_path / "run"
    launch(script, "distill", recipe, "--data", painted, "--out", out, port=29518)
    assert (out / "student" / "config.json").exists()
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2  # not twice as many
    checkpoint = checkpoints.latest(out)
    assert checkpoint is not None and checkpoint.name == "step_000002"
    assert set(checkpoints.restore_student(checkpoint).edits) == {"red-leather", "blue"}


def test_a_flow_starts_processes_and_reports_their_error(
    prefect_server: None, recipe: Path, painted: Path, tmp_path: Path
) -> None:
    in_two, out = load_recipe(recipe, ["operations.processes=2"]), tmp_path / "run"
    student = distill_flow(in_two, out, str(painted))
    assert (student / "config.json").exists()
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
    (log,) = out.glob("processes-*.log")
    assert "in 2 processes" in log.read_text()
    with pytest.raises(TrainingError, match="no dataset"):
        distill_flow(in_two, tmp_path / "other", str(tmp_path / "nothing"))


def test_processes_do_not_outlive_their_flow(recipe: Path, painted: Path, tmp_path: Path) -> None:
    run = RunFolder.open_or_create(load_recipe(recipe, ["training.steps=100000"]), tmp_path / "run")
    run.use_dataset(str(painted))
    command = [sys.executable, "-m", "flows.training.launcher", str(run.path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        wait_for(run.metrics.exists, "the first step")
        process.stdin.close()  # as the kernel does when the flow is killed
        assert process.wait(30) == 1


def test_a_transient_error_stays_transient_in_the_flow(tmp_path: Path) -> None:
    log = tmp_path / "processes.log"
    log.write_text("W1: torchrun\n\ntransient error: the bucket was not reached\nSignal 15\n")
    error = first_error([log])
    assert error == ReportedError("the bucket was not reached", is_transient=True)
    assert error is not None and is_transient(error.cause or ValueError())
    log.write_text("error: the set is empty\ntransient error: the others were cut off\n")
    error = first_error([log])
    assert error == ReportedError("the set is empty", is_transient=False)
    assert error is not None and error.cause is None
    log.write_text("Killed\n")
    assert first_error([log]) is None


def test_the_parent_of_processes_holds_no_teacher(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It painted, and now the processes need the whole card."""
    from flows.stages import distill

    held: list[int] = []
    monkeypatch.setattr(distill, "distill_together", lambda *_: held.append(open_teacher.cache_info().currsize))
    in_two = load_recipe(recipe, ["operations.processes=2"])
    open_teacher(in_two.teacher)
    distill.train_task.fn(in_two, tmp_path / "run")
    assert held == [0]


@pytest.mark.slow
def test_a_rank_that_dies_ends_in_one_line_and_resumes(recipe: Path, painted: Path, tmp_path: Path) -> None:
    in_two = load_recipe(recipe, ["operations.processes=2", "training.steps=100000", "training.checkpoint_every=1"])
    run = RunFolder.open_or_create(in_two, tmp_path / "run")
    run.use_dataset(str(painted))

    def kill_a_rank() -> None:
        wait_for(lambda: checkpoints.latest(run.path) is not None, "the first checkpoint")
        ranks = [
            process
            for process in psutil.Process().children(recursive=True)
            if str(run.path) in process.cmdline() and "accelerate.commands.launch" not in process.cmdline()
        ]
        ranks[-1].kill()

    killer = threading.Thread(target=kill_a_rank)
    killer.start()
    with pytest.raises(TrainingError, match="ended without reporting an error") as ended:
        distill_together(in_two, run)
    killer.join()
    assert "\n" not in str(ended.value)
    newest = checkpoints.latest(run.path)
    assert newest is not None
    steps = int(newest.name.removeprefix("step_"))
    more = load_recipe(
        recipe, ["operations.processes=2", f"training.steps={steps + 2}", "training.checkpoint_every=1"]
    )
    again = RunFolder(tmp_path / "run")
    again.adopt(more)
    distill_together(more, again)
    last = checkpoints.latest(run.path)
    assert last is not None and last.name == f"step_{steps + 2:06d}"
    assert (run.student / "config.json").exists()
