"""The preflight of a run: what would stop it after hours is found before the first image is painted.

    fits              the teacher can score, its network can become the student, the processes have work and cards
    packages          of the settings that need one more
    texts             every source and target text, against what the teacher's encoders read
    memory, disk      what the device and the disks have, against estimates
    hours             `operations.timeout_hours`, against the estimate of this machine

The first three need no more of the teacher than its small files, so nothing large is downloaded for a refusal.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from distill.presets import PRESETS
from flows.config.processes import processes_of
from flows.config.schema import Recipe, preset_for
from flows.planning.disk import check_disk
from flows.planning.estimates import duration, footprint_of
from flows.run.folder import RunFolder
from flows.shared_teacher import open_teacher
from synth.dataset.prompts import Template
from synth.errors import DistilleryError, RunError, TeacherError, TrainingError

if TYPE_CHECKING:
    import torch

    from synth.teacher.hub import ModelFolder
    from synth.teacher.teacher import Teacher

_MAX_COMBINATIONS = 20_000  # of words, whose texts are read; of more, the first and the longest


@dataclass(frozen=True)
class Check:
    """The outcome of one check."""

    name: str
    said: str
    """For people: what was found."""
    error: DistilleryError | None = None
    """What the run would end with."""


def preflight(recipe: Recipe, out: Path, data: str | None = None, exports: bool = True) -> list[Check]:
    """Check a run before it starts.

    Args:
        recipe: resolved.
        out: the run folder, which may not be there yet.
        data: the dataset's folder or URL (default: the one that the run names, or a folder in it).
        exports: whether model files are made, too.

    Returns:
        The checks; none for a run whose student is trained. After a check of `fits` and `packages` that fails, no
        other is made.
    """
    run = RunFolder(out)
    if run.student.exists():
        return []
    checks = list(_before_anything_large(recipe, exports))
    if not any(check.error for check in checks):
        checks += _with_teacher(recipe, run, data or run.dataset)
    return checks


def require(checks: list[Check]) -> None:
    """Refuse a run whose preflight found something.

    Raises:
        DistilleryError: the first error of the checks.
    """
    for check in checks:
        if check.error is not None:
            raise check.error


def preflight_lines(checks: list[Check]) -> list[str]:
    """Format checks for people, a line each."""
    return [f"{check.name:9} {f'no: {check.error}' if check.error else check.said}" for check in checks]


def check_hours(recipe: Recipe, stages: Mapping[str, float]) -> Check:
    """Compare the longest task of a run with the time that a task may take.

    Args:
        recipe: whose `operations.timeout_hours` it is.
        stages: name -> estimated seconds.
    """
    hours = {"training": stages.get("training", 0.0) / 3600}
    if recipe.scenes is not None and stages.get("painting"):  # a task paints a shard
        shards = -(-recipe.scenes.count // recipe.scenes.shard_size)
        hours["painting a shard"] = stages["painting"] / 3600 / shards
    longest, needed = max(hours.items(), key=lambda item: item[1])
    limit = recipe.operations.timeout_hours
    if needed <= limit:
        return Check("hours", f"{longest} may take {duration(needed * 3600)} of the {limit:g} h that a task has")
    message = (
        f"{longest} may take {duration(needed * 3600)} on this machine, and a task is stopped after {limit:g} h: set "
        f"operations.timeout_hours={_rounded_up(1.5 * needed)}, or ask for less"
    )
    return Check("hours", "", RunError(message))


def check_cards(recipe: Recipe) -> None:
    """Refuse more processes than this machine has cards, or several for the one card that the recipe names.

    Raises:
        RunError: for either.
        TeacherError: if the device is not there.
    """
    import torch

    from synth.teacher.devices import choose_device

    num, name = recipe.operations.processes, recipe.teacher.device
    if choose_device(name).type != "cuda" or num == 1:
        return
    if name != "auto" and torch.device(name).index is not None:
        raise RunError(
            f"teacher.device is {name}, one card for operations.processes={num}: set teacher.device=cuda, and each "
            "process takes a card of its own"
        )
    if num > (cards := torch.cuda.device_count()):
        has = "1 card" if cards == 1 else f"{cards} cards"
        raise RunError(
            f"operations.processes is {num} and this machine has {has}: set operations.processes={cards}, or less"
        )


def _before_anything_large(recipe: Recipe, exports: bool) -> Iterator[Check]:
    from synth.teacher.explain import explain
    from synth.teacher.hub import find

    try:
        model = find(recipe.teacher.id, recipe.teacher.revision)
    except TeacherError as error:
        yield Check("teacher", "", error)
        return
    except Exception as error:
        yield Check("teacher", "", explain(recipe.teacher.id, error))
        return
    yield _checked("teacher", lambda: _teacher(recipe, model))
    yield _checked("packages", lambda: _packages(recipe, exports))
    yield _checked("processes", lambda: _processes(recipe))


def _with_teacher(recipe: Recipe, run: RunFolder, data: str) -> Iterator[Check]:
    try:
        teacher = open_teacher(recipe.teacher)
    except TeacherError as error:
        yield Check("teacher", "", error)
        return
    if recipe.scenes is not None:
        from synth.dataset.generate import completed

        recipe = recipe.model_copy(update={"scenes": completed(recipe.scenes, teacher)})
    yield _checked("texts", lambda: _texts(recipe, teacher))
    yield _checked("memory", lambda: _memory(recipe, teacher))
    yield _checked("disk", lambda: check_disk(recipe, teacher, run, data))


def _checked(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, check())
    except DistilleryError as error:
        return Check(name, "", error)


def _teacher(recipe: Recipe, model: "ModelFolder") -> str:
    from distill.students import require_plain_unet
    from synth.teacher.few_steps import require_scorer

    require_scorer(model.name, model.few_steps)
    if recipe.training.student not in (preset := PRESETS[recipe.training.preset]).students:
        suits = preset_for(recipe.teacher.id, recipe.training.student)
        raise TrainingError(
            f"the values of training.preset={recipe.training.preset} are for a student of the kind "
            f"{preset.students[0]}, and training.student is {recipe.training.student}: set training.preset={suits}"
        )
    if recipe.training.student == "unet":
        require_plain_unet(model.name, model.family.network_class, model.config)
    return f"{model.name} can teach a student of the kind {recipe.training.student}"


def _packages(recipe: Recipe, exports: bool) -> str:
    from inference.runtime import MISSING

    if exports and importlib.util.find_spec("onnxruntime") is None:
        raise RunError(MISSING)
    training, operations = recipe.training, recipe.operations
    needed = {
        "training.lora_rank": ("peft", "lora") if training.lora_rank else None,
        "training.tracker": (training.tracker, "tracking") if training.tracker != "none" else None,
        "operations.runner=ray": ("prefect_ray", "ray") if operations.runner == "ray" else None,
        "operations.remote_dir": ("s3fs", "s3") if (operations.remote_dir or "").startswith("s3://") else None,
    }
    wanted = {key: value for key, value in needed.items() if value is not None}
    for key, (module, extra) in wanted.items():
        if importlib.util.find_spec(module) is None:
            source = module if module == "wandb" else f'"dds-distillery[{extra}]"'
            raise TrainingError(f"{key} needs {module}, which is not installed: pip install {source}, or unset it")
    return f"{', '.join(module for module, _ in wanted.values()) or 'no more'} needed"


def _processes(recipe: Recipe) -> str:
    """Against the pairs of a step, and the cards of this machine."""
    from distill.training.objective import check_processes

    num = processes_of(recipe.operations).total
    if sys.platform == "win32" and recipe.operations.launches_training:
        raise RunError(
            "a training in several processes is not supported on Windows, whose torch has no NCCL: set "
            "operations.processes=1 and leave out operations.accelerate_config, or use Linux (WSL)"
        )
    check_processes(recipe.training, len(recipe.edits), num)
    check_cards(recipe)  # of the painters, too, which know no file of accelerate
    return "1 process" if num == 1 else f"{num} processes"


def _texts(recipe: Recipe, teacher: "Teacher") -> str:
    """Every text that the teacher will read, and whether every edit changes one."""
    from distill.training.pairs import text_rows

    if recipe.scenes is None and (recipe.photos is None or recipe.photos.source is None):
        return "the photographs' own captions, which are read before the training"
    texts = recipe.texts()
    slots = list(_slots(texts)) if isinstance(texts, Template) else [{}]
    prompts = [texts.render(own) if isinstance(texts, Template) else "" for own in slots]
    rows = text_rows(texts, recipe.edits, zip(prompts, slots, strict=True))
    distinct = sorted({text for row in rows for text in row})
    teacher.check_prompts(distinct)
    return f"{len(distinct)} texts of images and edits, which the teacher reads to their ends"


def _slots(template: Template) -> Iterator[dict[str, str]]:
    """Every combination of words; of too many, those of the first scenes and the longest."""
    values = {name: list(dict.fromkeys(template.settings.slots[name])) for name in template.slots}
    combinations = product(*values.values())
    if template.num_combinations <= _MAX_COMBINATIONS:
        yield from (dict(zip(values, chosen, strict=True)) for chosen in combinations)
        return
    yield {name: max(own, key=len) for name, own in values.items()}
    for index in range(min(template.settings.count, _MAX_COMBINATIONS)):
        yield dict(template.scene(index).slots)


def _memory(recipe: Recipe, teacher: "Teacher") -> str:
    """The training's processes on this machine against its memory; on GPUs, those of a card against the card's.

    A small network on a CPU is not counted.
    """
    import torch

    from distill.training.memory import knobs

    on_gpu = teacher.device.type == "cuda"
    if not (on_gpu or teacher.is_full_size):
        return "not counted for a network of this size on a CPU"
    size = (recipe.scenes and recipe.scenes.image_size) or teacher.defaults.image_size
    num_sharing = processes_of(recipe.operations).here
    if on_gpu:
        num_sharing = -(-num_sharing // max(1, torch.cuda.device_count()))
    num_bytes = num_sharing * footprint_of(teacher, recipe, size).total
    available = _memory_of(teacher.device)
    who = "the training takes" if num_sharing == 1 else f"{num_sharing} processes of the training take together"
    needed, there = f"{who} about {num_bytes / 2**30:.1f} GiB", f"{available / 2**30:.1f} GiB"
    if num_bytes <= available:
        return f"{needed} of the {there} of {teacher.device}"
    fewer = "fewer processes, or " if num_sharing > 1 else ""
    raise TrainingError(f"{needed}, and {teacher.device} has {there}: set {fewer}{knobs(recipe.training)}")


def _memory_of(device: "torch.device") -> int:
    """The bytes of a GPU, or those that this process may use of the machine's."""
    import psutil
    import torch

    from synth.cpu import memory_limit

    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return min(int(psutil.virtual_memory().total), memory_limit() or 2**63)


def _rounded_up(hours: float) -> int:
    return int(-(-hours // 10) * 10) if hours > 10 else max(1, round(hours + 0.5))
