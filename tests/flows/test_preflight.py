"""What would stop a run after hours is refused before the first image is painted."""

import importlib.util
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import small_runs
import torch
from small_runs import SMALL, command, run_command

import flows.planning.preflight as preflight_module
from distill.training.footprint import footprint
from flows.config.loading import load_recipe, with_overrides
from flows.config.operations import OperationSettings
from flows.config.processes import Processes, processes_of
from flows.config.schema import Recipe
from flows.planning.preflight import check_hours, preflight, preflight_lines, require
from flows.stages import synthesize
from synth.errors import DistilleryError, RunError, TrainingError
from synth.teacher.few_steps import is_few_steps_name
from synth.teacher.hub import find
from synth.teacher.teacher import Teacher

SLOTS = [f'scenes.slots.{name}=["{value}"]' for name, value in {"wall": "white", "floor": "tiled"}.items()]
"""Fewer words than the recipe has, whose texts are read in no time."""
UNET = "training.student=unet"  # of which more can be wrong than of small runs' own


def small_recipe(teacher: Path, *overrides: str) -> Recipe:
    return small_runs.small_recipe(teacher, UNET, *SLOTS, *overrides)


def refusal(teacher: Path, out: Path, *overrides: str) -> str:
    checks = preflight(small_recipe(teacher, *overrides), out / "run")
    with pytest.raises(DistilleryError) as refused:
        require(checks)
    assert "\n" not in str(refused.value)
    assert next(line for line in preflight_lines(checks) if "no: " in line).endswith(f"no: {refused.value}")
    assert not any(out.iterdir())
    return str(refused.value)


def test_what_fits_is_told_check_by_check(tiny_sd_folder: Path, tmp_path: Path) -> None:
    recipe = small_recipe(tiny_sd_folder)
    checks = preflight(recipe, tmp_path / "run")
    require(checks)
    assert [check.name for check in checks] == ["teacher", "packages", "processes", "texts", "memory", "disk"]
    assert f"teacher   {tiny_sd_folder} can teach a student of the kind unet" in preflight_lines(checks)
    (texts,) = [check.said for check in checks if check.name == "texts"]
    num_things = len(recipe.to_paint().slots["thing"])
    assert texts.startswith(f"{11 * 4 * num_things * len(recipe.to_paint().slots['room'])} texts")


@pytest.mark.parametrize("tiny", ["tiny_xl_folder", "tiny_3_folder"])
def test_networks_that_become_no_unet_student(tiny: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = request.getfixturevalue(tiny)
    assert "training.student=compact" in refusal(folder, tmp_path)
    require(preflight(small_recipe(folder, "training.student=compact"), tmp_path / "run"))


def test_a_preset_for_another_student_is_refused(tiny_xl_folder: Path, tiny_sd_folder: Path, tmp_path: Path) -> None:
    paper = ["training.preset=paper", "training.student=compact"]
    told = refusal(tiny_xl_folder, tmp_path, *paper)
    assert told == (
        "the values of training.preset=paper are for a student of the kind unet, and training.student is compact: "
        "set training.preset=compact"
    )
    other = refusal(tiny_sd_folder, tmp_path, "training.preset=compact", "training.student=unet")
    assert "for a student of the kind compact, and training.student is unet: set training.preset=paper" in other


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("what", ["student", "hours"])
def test_a_run_paints_nothing_before_it_is_refused(
    tiny_xl_folder: Path, tiny_sd_folder: Path, tmp_path: Path, what: str
) -> None:
    out = tmp_path / "run"
    if what == "student":
        result = run_command(tiny_xl_folder, out, UNET)
        assert "use a teacher of Stable Diffusion 1.x or 2.x, or training.student=compact" in result.stderr
    else:
        result = run_command(tiny_sd_folder, out, "training.steps=100000000", "operations.timeout_hours=0.5")
        assert "set operations.timeout_hours=" in result.stderr
    assert result.exit_code == 2 and result.stderr.count("error: ") == 1
    assert not (out / "dataset").exists()


FEW = """
    stabilityai/sd-turbo sdxl-turbo ByteDance/SDXL-Lightning LCM_Dreamshaper_v7 latent-consistency/lcm-sdxl
    tianweiy/DMD2
    sd15-dmd wangfuyun/PCM_Weights jasperai/flash-sd jasperai/flash-sdxl sd-community/sdxl-flash flash-sd3
    ByteDance/Hyper-SD HyperSD15 realvis-v5-hyper hyper-8-steps sd-tcd
"""
MANY = """
    someone/hyper-realistic hyperrealism-v4 Hyper_Realistic_xl epic-hyper-real lcm-labs/portraits flashback-80s
    flash-photography pcmag dreamshaper-8 stable-diffusion-v1-5/stable-diffusion-v1-5 stable-diffusion-3.5-large
"""


@pytest.mark.parametrize(
    ("name", "few"), [*((name, True) for name in FEW.split()), *((name, False) for name in MANY.split())]
)
def test_few_step_kinds_are_known_by_name(name: str, few: bool) -> None:
    assert is_few_steps_name(name) is few


def test_a_few_step_teacher_paints_alone(tiny_sd_folder: Path, tmp_path: Path) -> None:
    turbo = Path(shutil.copytree(tiny_sd_folder, tmp_path / "models" / "sofa-dmd"))
    (tmp_path / "out").mkdir()
    assert "cannot serve as a scorer" in refusal(turbo, tmp_path / "out")
    overrides = [part for override in SMALL for part in ("--set", override)]
    dry = command("synthesize", "sofas", "--teacher", turbo, *overrides, "--dry-run", "--out", tmp_path / "set")
    assert dry.exit_code == 0 and "teacher   no: " in dry.stdout and "cannot serve as a scorer" in dry.stdout


@pytest.mark.parametrize(
    ("override", "module", "advice"),
    [
        ("training.lora_rank=2", "peft", 'pip install "dds-distillery[lora]"'),
        ('training.tracker="tensorboard"', "tensorboard", 'pip install "dds-distillery[tracking]"'),
        ('training.tracker="wandb"', "wandb", "pip install wandb"),
        ('operations.runner="ray"', "prefect_ray", 'pip install "dds-distillery[ray]"'),
        ('operations.remote_dir="s3://bucket/runs"', "s3fs", 'pip install "dds-distillery[s3]"'),
    ],
)
def test_a_missing_package_is_named(
    tiny_sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, module: str, advice: str
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find_spec(name))
    assert f"needs {module}, which is not installed: {advice}" in refusal(tiny_sd_folder, tmp_path, override)


def test_onnx_runtime_is_missed_before_painting(
    tiny_sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find_spec(name))
    told = refusal(tiny_sd_folder, tmp_path)
    assert told.startswith('model files need ONNX Runtime, which is not installed: pip install "dds-distillery[cpu]"')
    require(preflight(small_recipe(tiny_sd_folder), tmp_path / "run", exports=False))  # a training needs none


def test_texts_are_read_before_anything_is_painted(tiny_sd_folder: Path, tmp_path: Path) -> None:
    long = " ".join(["sofa"] * 90)
    told = refusal(tiny_sd_folder, tmp_path, f'edits.long.color="{long}"')
    assert "tokens and" in told and "shorten it" in told
    assert "tokens and" in refusal(tiny_sd_folder, tmp_path, f'scenes.slots.color=["red", "{long}"]')
    same = refusal(tiny_sd_folder, tmp_path, 'scenes.slots.color=["red"]', 'edits.same.color="red"')
    assert "the edit 'same' changes no image's text" in same


def test_of_too_many_words_the_longest_are_read(
    tiny_sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.planning.preflight._MAX_COMBINATIONS", 10)
    rare = " ".join(["sofa"] * 90)
    assert "shorten it" in refusal(tiny_sd_folder, tmp_path, f'scenes.slots.thing=["a lamp", "{rare}"]')


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


@pytest.mark.usefixtures("two_cards")
@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["operations.processes=3"], "is 3 and this machine has 2 cards: set operations.processes=2, or less"),
        (["operations.processes=2", 'teacher.device="cuda:1"'], "one card for operations.processes=2"),
        (["operations.processes=13"], "2 images x 6 edits = 12: start at most 12 processes"),
    ],
)
def test_processes_without_cards_or_work(
    tiny_sd_folder: Path, tmp_path: Path, overrides: list[str], told: str
) -> None:
    assert told in refusal(tiny_sd_folder, tmp_path, *overrides)
    if "edits" not in told:  # pairs are the training's matter alone
        with pytest.raises(RunError) as refused:
            synthesize.synthesize_flow.fn(small_recipe(tiny_sd_folder, *overrides), str(tmp_path / "set"))
        assert told in str(refused.value)
        with pytest.raises(RunError, match=r"operations\.processes"):  # of a run whose student is trained
            synthesize._paint(small_recipe(tiny_sd_folder, *overrides), str(tmp_path / "set"), {0: 4, 1: 2}, 0)
        assert not (tmp_path / "set").exists()


def test_on_ray_nobody_counts_this_machines_cards(
    tiny_sd_folder: Path, tmp_path: Path, two_cards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[tuple[str, int]] = []
    monkeypatch.setattr(synthesize, "exclusive_gpu", lambda *asked: held.append(asked) or nullcontext())
    monkeypatch.setattr(synthesize, "paint_dataset", lambda *_: 6)
    on_ray = small_recipe(tiny_sd_folder, "operations.processes=3", 'operations.runner="ray"')
    assert synthesize.synthesize_flow.fn(on_ray, str(tmp_path / "set")) == 6
    assert held == [("auto", 3)]


def test_memory_and_disk_against_the_estimates(
    tiny_sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**5))
    assert "has 0.0001 GB free: make room" in refusal(tiny_sd_folder, tmp_path)
    monkeypatch.setattr(Teacher, "is_full_size", property(lambda _: True))
    small: Any = SimpleNamespace(total=2**20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: small)
    told = refusal(tiny_sd_folder, tmp_path)
    assert "the training takes about 0.0 GiB, and cpu has 0.0 GiB: set training.micro_batch_size=1 or" in told


@pytest.mark.parametrize(
    ("operations", "total", "here"),
    [
        (["operations.processes=3"], 3, 3),
        (['operations.accelerate_config="two-machines.yaml"'], 4, 2),
        ([], 1, 1),
    ],
)
def test_all_processes_of_a_machine_need_memory(
    operations: list[str], total: int, here: int, tiny_sd_folder: Path, tiny_teacher: Teacher, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    file = "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nmachine_rank: 1\n"
    Path("two-machines.yaml").write_text(f"{file}num_machines: 2\nnum_processes: 4\n")
    recipe, size = small_recipe(tiny_sd_folder, *operations), tiny_teacher.defaults.image_size
    edits, model = dict.fromkeys(recipe.edits, ""), find(str(tiny_sd_folder), None)
    each = footprint(model, edits, recipe.training, size, torch.float32, False, total).total
    monkeypatch.setattr(Teacher, "is_full_size", property(lambda _: True))
    for room, fits in ((here * each, True), (here * each - 1, False)):
        memory: Any = SimpleNamespace(total=room)
        monkeypatch.setattr(psutil, "virtual_memory", lambda memory=memory: memory)
        with nullcontext() if fits else pytest.raises(TrainingError, match="GiB: set") as refused:
            said = preflight_module._memory(recipe, tiny_teacher)
        said = said if fits else str(refused.value)
        assert said.startswith(
            f"{here} processes of the training take together" if here > 1 else "the training takes"
        )
        assert fits or ("fewer processes, or training." in said) == (here > 1)


@pytest.mark.usefixtures("two_cards")
def test_a_card_holds_its_own_processes_alone(tiny_teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four processes of a file share two cards: two of them each."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=2 * 2**30))
    monkeypatch.setattr(preflight_module, "footprint_of", lambda *_: SimpleNamespace(total=2**30))
    teacher: Any = SimpleNamespace(device=torch.device("cuda"), is_full_size=True, defaults=tiny_teacher.defaults)
    for num, told in (
        (2, "the training takes about 1.0"),
        (4, "2 processes of the training take together about 2.0"),
    ):
        monkeypatch.setattr(preflight_module, "processes_of", lambda _, num=num: Processes(num, num))
        said = preflight_module._memory(load_recipe("demo"), teacher)
        assert said == f"{told} GiB of the 2.0 GiB of cuda"
    monkeypatch.setattr(preflight_module, "processes_of", lambda _: Processes(5, 5))
    with pytest.raises(DistilleryError, match=r"3 processes .* about 3\.0 GiB, and cuda has 2\.0 GiB: set fewer"):
        preflight_module._memory(load_recipe("demo"), teacher)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("machine_rank: 1\nnum_machines: 2\nnum_processes: 16\n", Processes(16, 8, 1)),
        ("machine_rank: 0\nnum_machines: 1\nnum_processes: 3\n", Processes(3, 3)),
        ("machine_rank: 2\n", Processes(1, 1, 2)),
        ("num_processes: many\n", Processes(1, 1)),
        ("[", Processes(1, 1)),
        (None, Processes(1, 1)),
    ],
)
def test_what_a_file_of_accelerate_says(text: str | None, expected: Processes, tmp_path: Path) -> None:
    file = tmp_path / "accelerate.yaml"
    if text is not None:
        file.write_text(f"compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\n{text}")
    assert processes_of(OperationSettings(accelerate_config=str(file), processes=7)) == expected
    assert processes_of(OperationSettings(processes=7)) == Processes(7, 7)


def test_files_that_are_there_need_no_more_room(
    tiny_sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out = small_recipe(tiny_sd_folder), tmp_path / "run"
    room: Any = SimpleNamespace(free=10**4)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room)

    def needed() -> float:
        (check,) = [check for check in preflight(recipe, out) if check.name == "disk"]
        return float(str(check.error).split()[4])

    before = needed()
    (out / "checkpoints").mkdir(parents=True)
    (out / "checkpoints" / "file").write_bytes(bytes(10**8))
    images = needed()
    assert images < before / 2, "only the images are yet to be written"
    (out / "dataset").mkdir()
    (out / "dataset" / "file").write_bytes(bytes(10**8))
    assert [check.error for check in preflight(recipe, out)] == [None] * 6


def test_hours_are_compared_with_the_longest_task(tiny_sd_folder: Path) -> None:
    recipe = small_recipe(tiny_sd_folder, "scenes.count=500", "scenes.shard_size=250")
    fits = check_hours(recipe, {"painting": 90 * 3600, "training": 30 * 3600})
    assert fits.error is None and fits.said == "painting a shard may take 45.0 h of the 48 h that a task has"
    late = check_hours(recipe, {"painting": 10.0, "training": 60 * 3600})
    assert str(late.error) == (
        "training may take 2.5 days on this machine, and a task is stopped after 48 h: set "
        "operations.timeout_hours=90, or ask for less"
    )
    assert check_hours(recipe, {}).error is None


def test_a_trained_run_has_nothing_to_check(tiny_sd_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "student").mkdir(parents=True)
    assert preflight(small_recipe(tiny_sd_folder, "operations.processes=100"), tmp_path / "run") == []


def test_pairs_need_room_where_the_run_is(
    tiny_sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images are elsewhere; what the student makes of them is not."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**4))

    def needed(size: str) -> float:
        many = ["scenes.count=100000", f"pixel.size={size}", "pixel.edits_per_image=1"]
        recipe = with_overrides(small_recipe(tiny_sd_folder), many)
        checks = preflight(recipe, tmp_path / "run", "s3://bucket/images")
        (check,) = [check for check in checks if check.name == "disk"]
        return float(str(check.error).split()[4])

    side = 64
    pairs = 100_000 * 2 * 3 * side**2 / 1e9  # an image, and one edit of it
    assert needed("small") - needed("none") == pytest.approx(pairs, rel=0.1)
