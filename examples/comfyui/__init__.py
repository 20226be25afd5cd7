"""A ComfyUI node that applies an edit of a model file to images.

Copy this folder to `ComfyUI/custom_nodes/dds_distillery`, put `inference/runtime.py`, `synth/images/reader.py` and
`synth/images/enlargement.py` beside this file, and the model files into `ComfyUI/models/dds_distillery`. Of ComfyUI's
own environment only onnxruntime is missing: `pip install "onnxruntime>=1.31"`, or `onnxruntime-gpu`.
"""

import importlib.util
import os
import sys
from functools import lru_cache
from types import ModuleType

import folder_paths
import numpy as np
import torch

FOLDER = "dds_distillery"  # below ComfyUI/models
HERE = os.path.dirname(os.path.realpath(__file__))
folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))


def _load(name: str) -> ModuleType:
    """Open a file beside this one, under a name that no other node has."""
    spec = importlib.util.spec_from_file_location(f"{FOLDER}_{name}", os.path.join(HERE, f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


try:
    from inference import runtime
except ModuleNotFoundError:  # dds-distillery is not installed: the three copied files are enough
    needed = ("enlargement", "reader")  # by these names they ask for each other
    others = {name: sys.modules[name] for name in needed if name in sys.modules}
    for name in needed:
        sys.modules[name] = _load(name)
    runtime = _load("runtime")
    for name in needed:
        del sys.modules[name]
    sys.modules.update(others)


@lru_cache(maxsize=2)
def _opened(path: str, stamp: float) -> "runtime.Translator":
    return runtime.Translator.load(path)


@lru_cache(maxsize=256)
def _edits(path: str, stamp: float) -> tuple[str, ...]:
    try:
        return tuple(runtime.Translator.load(path, ["cpu"]).edits)
    except runtime.TranslatorError as error:
        print(f"{FOLDER}: {error}")  # one broken file must not hide the others
        return ()


def _known() -> dict[str, tuple[str, ...]]:
    """The name of each model file, and its edits."""
    names = [name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(".onnx")]
    return {name: _edits(*_stamped(name)) for name in names}


def _stamped(model: str) -> tuple[str, float]:
    path = folder_paths.get_full_path_or_raise(FOLDER, model)
    return path, os.path.getmtime(path)


class DistilledEdit:
    """Applies one edit to a batch of images, in one pass each."""

    CATEGORY = "image/dds-distillery"
    FUNCTION = "apply"
    RETURN_TYPES = ("IMAGE", "MASK")
    DESCRIPTION = "Applies an edit that was distilled from a diffusion model. Strength 0 returns the input's pixels."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, tuple]]:
        """The widgets: the lists are what the model files say of themselves."""
        known = _known()
        edits = list(dict.fromkeys(edit for edits in known.values() for edit in edits))
        strength = {"default": 1.0, "min": -1.0, "max": 2.0, "step": 0.05}
        return {
            "required": {
                "image": ("IMAGE",),
                "model": (list(known),),
                "edit": (edits,),
                "strength": ("FLOAT", strength),
            },
            "optional": {"mask": ("MASK",)},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, model: str, edit: str) -> bool | str:
        """Whether the model has this edit; the list of edits is that of all models."""
        known = _known()
        if model not in known:
            return f"there is no {model} in models/{FOLDER}"
        if edit not in known[model]:
            return f"{model} has no edit {edit!r}: it has {', '.join(known[model]) or 'none that can be read'}"
        return True

    @classmethod
    def IS_CHANGED(cls, model: str, **inputs: object) -> float:
        """A file that was replaced is run again."""
        return _stamped(model)[1]

    def apply(
        self, image: torch.Tensor, model: str, edit: str, strength: float, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Edit the images; the mask goes on as it came.

        Args:
            image: float32 (B, H, W, C) in [0, 1], C 3, or 4 with alpha, which stays.
            model: a file's name in models/dds_distillery.
            edit: one of its edits.
            strength: 0 leaves the image, 1 is the edit as trained.
            mask: float32 (B, H, W); zeros if there is none.
        """
        translator = _opened(*_stamped(model))
        pixels = image[..., :3].cpu().numpy()
        before = np.rint(pixels * 255).clip(0, 255).astype(np.uint8)  # (B, H, W, 3)
        after = translator(before, edit, strength)
        # The change alone is in steps of 1/255: what it leaves alone keeps its very values.
        edited = image.clone()
        change = torch.from_numpy((after.astype(np.float32) - before) / 255).to(image)
        edited[..., :3] = torch.where(change == 0, image[..., :3], (image[..., :3] + change).clamp(0, 1))
        return edited, torch.zeros(image.shape[:3]) if mask is None else mask


NODE_CLASS_MAPPINGS = {"DistilledEdit": DistilledEdit}
NODE_DISPLAY_NAME_MAPPINGS = {"DistilledEdit": "Distilled edit (DDS)"}
