"""Take a few steps of plain gradient descent on the training's gradient, in one process or by `accelerate launch`.

    accelerate launch --multi_gpu --num_processes 4 tests/support/several_processes.py TEACHER DATASET FILE

Adam would not do: where a gradient is nearly zero, its first steps are as long as elsewhere, in a direction that
rounding decides. FILE.RANK gets the gradients of the first step and the weights after the last, for each of VARIANTS,
and how many latents the process's teacher saw in a step.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import save_file
from torch import Tensor

from distill.scores import shared_source_dds
from distill.settings import TrainingSettings
from distill.students import new_student
from distill.training.objective import Objective
from distill.training.pairs import prepare_pairs
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.prompts import Template
from synth.settings import SceneSettings, TeacherSettings
from synth.teacher.teacher import Teacher

EDITS = {
    "red-leather": {"color": "red", "material": "leather"},
    "blue": {"color": "blue"},
    "green-fabric": {"color": "green", "material": "fabric"},
}
SCENES = SceneSettings(
    template="a {color} {material} sofa",
    slots={"color": ["red", "blue", "green"], "material": ["leather", "fabric"]},
    count=5,
    image_size=64,
    num_inference_steps=1,
    guidance_scale=1.5,
    batch_size=5,
)
SETTINGS = TrainingSettings(preset="short", batch_size=2, autocast="off")
VARIANTS: dict[str, dict[str, Any]] = {
    "all": {},
    "two": {"edits_per_image": 2},
    "micro": {"micro_batch_size": 1},
}
NUM_STEPS = 5
LEARNING_RATE = 0.5


def descend(teacher: Teacher, dataset: ImageDataset, folder: Path) -> dict[str, Tensor]:
    """Descend, and return the gradients of the first step and the weights after the last."""
    return {
        f"{variant}/{name}": tensor
        for variant, overrides in VARIANTS.items()
        for name, tensor in _descend(teacher, dataset, folder, SETTINGS.model_copy(update=overrides)).items()
    }


def _descend(teacher: Teacher, dataset: ImageDataset, folder: Path, settings: TrainingSettings) -> dict[str, Tensor]:
    processes = PartialState(cpu=True)
    with processes.main_process_first():
        pairs = prepare_pairs(teacher, dataset, Template(SCENES), EDITS, folder, progress=False)
    student = new_student(teacher, dict(zip(EDITS, pairs.target_prompts[0], strict=True)), settings)
    objective = Objective(teacher, student, pairs, settings, shared_source_dds, processes)
    gradients = {}
    latents: list[int] = []
    hook = teacher.network.register_forward_pre_hook(lambda _, inputs: latents.append(len(inputs[0])))
    for step in range(NUM_STEPS):
        student.zero_grad()
        objective.backward(step, omega=3.0, lambda_id=1.0)
        with torch.no_grad():
            for name, weight in student.named_parameters():
                if step == 0:
                    gradients[f"gradient/{name}"] = weight.grad.clone()
                weight -= LEARNING_RATE * weight.grad
    hook.remove()
    return (
        {"latents": torch.tensor(sum(latents) / NUM_STEPS)}
        | gradients
        | {f"weight/{name}": weight.detach().clone() for name, weight in student.named_parameters()}
    )


if __name__ == "__main__":
    teacher_folder, dataset_folder, file = map(Path, sys.argv[1:])
    teacher = Teacher.load(TeacherSettings(id=str(teacher_folder), device="cpu"))
    tensors = descend(teacher, ImageDataset(dataset_folder), dataset_folder / "latents")
    state = PartialState()
    save_file(tensors, file.with_suffix(f".{state.process_index}"))
    state.wait_for_everyone()
    state.destroy_process_group()
