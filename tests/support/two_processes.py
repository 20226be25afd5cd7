"""A few steps of plain gradient descent on the training's own gradient, for `accelerate launch` and for one process.

    accelerate launch --multi_gpu --num_processes 2 tests/support/two_processes.py TEACHER SET FILE

Not Adam: where a gradient is nearly zero, its first steps are as long as anywhere else, in a direction that rounding
decides. FILE gets the first step's gradients and the weights after the last step.
"""

import sys
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors.torch import save_file
from torch import Tensor

from distill.objective import Objective
from distill.pairs import prepare_pairs
from distill.scores import shared_source_dds
from distill.settings import TrainingSettings
from distill.students import new_student
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.prompts import Template
from synth.settings import SceneSettings, TeacherSettings
from synth.teacher.teacher import Teacher

EDITS = {"red-leather": {"color": "red", "material": "leather"}, "blue": {"color": "blue"}}
SCENES = SceneSettings(
    template="a {color} {material} sofa",
    slots={"color": ["red", "blue", "green"], "material": ["leather", "fabric"]},
    count=5,
    image_size=64,
    num_inference_steps=1,
    guidance_scale=1.5,
    batch_size=5,
)
SETTINGS = TrainingSettings(preset="short", batch_size=3, autocast="off")
STEPS, RATE = 5, 0.5


def descend(teacher: Teacher, painted: ImageDataset, folder: Path) -> dict[str, Tensor]:
    processes = PartialState(cpu=True)
    with processes.main_process_first():
        pairs = prepare_pairs(teacher, painted, Template(SCENES), EDITS, folder, progress=False)
    student = new_student(teacher, dict(zip(EDITS, pairs.target_prompts[0], strict=True)), SETTINGS)
    objective = Objective(teacher, student, pairs, SETTINGS, shared_source_dds, processes)
    found = {}
    for step in range(STEPS):
        student.zero_grad()
        objective.backward(step, omega=3.0, lambda_id=1.0)
        with torch.no_grad():
            for name, weight in student.named_parameters():
                if step == 0:
                    found[f"gradient/{name}"] = weight.grad.clone()
                weight -= RATE * weight.grad
    return found | {f"weight/{name}": weight.detach().clone() for name, weight in student.named_parameters()}


if __name__ == "__main__":
    teacher_folder, set_folder, file = map(Path, sys.argv[1:])
    teacher = Teacher.load(TeacherSettings(id=str(teacher_folder), device="cpu"))
    found = descend(teacher, ImageDataset(set_folder), set_folder / "latents")
    state = PartialState()
    assert state.num_processes == 2
    if state.is_main_process:
        save_file(found, file)
    state.wait_for_everyone()
    state.destroy_process_group()
