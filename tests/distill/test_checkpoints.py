"""What a training leaves on disk when it is killed, when the disk is full, and when another one resumes it."""

import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from distill.settings import TrainingSettings
from distill.training import checkpoints
from distill.training.train import StepRecord, train
from synth.dataset.building import synthesize
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.prompts import Template
from synth.errors import TrainingError
from synth.settings import SceneSettings, TeacherSettings
from synth.teacher.teacher import Teacher

EDITS = {"red": {"color": "red"}}
SCENES = SceneSettings(
    template="a {color} sofa",
    slots={"color": ["red", "blue", "green"]},
    count=4,
    image_size=64,
    num_inference_steps=1,
    guidance_scale=1.5,
    batch_size=4,
)
SETTINGS = TrainingSettings(
    preset="short", steps=12, batch_size=2, warmup_steps=2, ema_decay=0.9, checkpoint_every=1, autocast="off"
)
CHILDREN = get_context("forkserver")  # its one process imports the libraries, for all that it forks
CHILDREN.set_forkserver_preload(
    ["distill.training.train", "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion"]
)


@pytest.fixture(scope="module")
def folder(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("painted")
    synthesize(tiny_teacher, SCENES, folder, progress=False)
    return folder


def steps(
    teacher: Teacher, folder: Path, run_dir: Path, settings: TrainingSettings = SETTINGS
) -> Iterator[StepRecord]:
    return train(teacher, ImageDataset(folder), Template(SCENES), EDITS, settings, run_dir, progress=False)


def train_in_child(teacher: Path, folder: Path, run_dir: Path, threads: int) -> None:
    torch.set_num_threads(threads)  # the parent's: with others, sums round otherwise
    for _ in steps(Teacher.load(TeacherSettings(id=str(teacher), device="cpu")), folder, run_dir):
        pass


def steps_done(run_dir: Path) -> int:
    newest = checkpoints.latest(run_dir)
    return 0 if newest is None else int(newest.name.removeprefix("step_"))


def weights(run_dir: Path) -> dict[str, Tensor]:
    newest = checkpoints.latest(run_dir)
    assert newest is not None and newest.name == "step_000012"
    files = sorted(newest.rglob("*.safetensors"))
    return {f"{file.parent.name}/{name}": tensor for file in files for name, tensor in load_file(file).items()}


def test_a_training_killed_twice_ends_with_the_same_weights(
    tiny_sd_folder: Path, folder: Path, tmp_path: Path
) -> None:
    """All in processes of their own: what other tests leave in this one may change how sums round."""

    def start(run_dir: Path) -> BaseProcess:
        arguments = (tiny_sd_folder, folder, run_dir, torch.get_num_threads())
        child = CHILDREN.Process(target=train_in_child, args=arguments)
        child.start()
        return child

    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    start(undisturbed).join()
    for at_least in (2, 7):
        child = start(killed)
        while child.is_alive() and steps_done(killed) < at_least:
            time.sleep(0.002)  # a checkpoint a step: the kill comes while one is written, or right behind it
        assert child.pid is not None and child.is_alive()
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    assert 7 <= steps_done(killed) < SETTINGS.steps
    start(killed).join()
    ours, theirs = weights(killed), weights(undisturbed)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@contextmanager
def files_end_at(num_bytes: int) -> Iterator[None]:
    """A disk that takes no larger file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_one_clear_line_and_loses_nothing(tiny_teacher: Teacher, folder: Path, tmp_path: Path) -> None:
    training = steps(tiny_teacher, folder, tmp_path)
    next(training), next(training)
    with (
        files_end_at(1000),
        pytest.raises(TrainingError, match="cannot write the checkpoint of step 3") as caught,
    ):
        next(training)
    assert "File too large" in str(caught.value) and "step_000002 is whole" in str(caught.value)
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["step_000001", "step_000002"]
    assert next(steps(tiny_teacher, folder, tmp_path)).step == 3  # with room again, it resumes


def test_another_set_or_teacher_is_refused(
    tiny_teacher: Teacher, tiny_v_teacher: Teacher, folder: Path, tmp_path: Path
) -> None:
    next(steps(tiny_teacher, folder, tmp_path))
    grown = tmp_path / "grown"
    synthesize(tiny_teacher, SCENES.model_copy(update={"seed": 1}), grown, progress=False)
    with pytest.raises(TrainingError, match=r"step_000001 was trained on other images, captions or slots than the"):
        next(steps(tiny_teacher, grown, tmp_path))
    with pytest.raises(TrainingError, match="belongs to another training: its teacher is"):
        next(steps(tiny_v_teacher, folder, tmp_path))
