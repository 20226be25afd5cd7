"""What ComfyUI does with a custom node, from its documentation: load the folder, ask for widgets, validate, execute.

    python comfyui_program.py CUSTOM_NODE_FOLDER IMAGES.npy OUT.npz

In a process of its own, where nothing of the project can be imported.
"""

import importlib.util
import json
import sys

import numpy as np
import torch

sys.modules.update(dict.fromkeys(["inference", "synth", "distill", "flows"]))  # importing one of them fails
node_folder, images, out = sys.argv[1:]
spec = importlib.util.spec_from_file_location(node_folder, f"{node_folder}/__init__.py")
assert spec is not None and spec.loader is not None
module = importlib.util.module_from_spec(spec)
sys.modules[node_folder] = module
spec.loader.exec_module(module)
assert not {"enlargement", "reader", "runtime"} & set(sys.modules)

(kind,) = module.NODE_CLASS_MAPPINGS.values()
assert set(module.NODE_DISPLAY_NAME_MAPPINGS) == set(module.NODE_CLASS_MAPPINGS)
widgets = kind.INPUT_TYPES()
assert set(widgets) <= {"required", "optional", "hidden"} and isinstance(kind.CATEGORY, str)
print(json.dumps({name: widget[0] for name, widget in {**widgets["required"], **widgets["optional"]}.items()}))
print(json.dumps([kind.VALIDATE_INPUTS(model="sofas.onnx", edit=edit) for edit in ("blue fabric", "green")]))
stamp = kind.IS_CHANGED(model="sofas.onnx", edit="blue fabric", image=None, strength=1.0)
assert stamp == kind.IS_CHANGED(model="sofas.onnx", edit="red leather", image=None, strength=0.5)

batch = torch.from_numpy(np.load(images))
mask = torch.rand(batch.shape[:3])
given = {"image": batch, "model": "sofas.onnx", "edit": "blue fabric"}
run = getattr(kind(), kind.FUNCTION)
edited, passed = run(**given, strength=0.7, mask=mask)
assert passed is mask and len(kind.RETURN_TYPES) == 2
alone, empty = run(**given, strength=0.0)
assert torch.equal(alone, batch) and not empty.any() and empty.shape == batch.shape[:3]
with_alpha = torch.cat([batch, mask[..., None]], dim=3)
rgba, _ = run(**{**given, "image": with_alpha}, strength=0.7)
assert torch.equal(rgba[..., 3], mask) and torch.equal(rgba[..., :3], edited)
np.savez(out, edited=edited.numpy())
