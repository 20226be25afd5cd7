"""A run folder that holds no more than a page needs: a recipe, a small model file and a grid."""

from pathlib import Path

from PIL import Image
from tiny_model import properties, write_model

from flows.config.loading import load_recipe
from flows.config.toml import to_toml


def exported_run(folder: Path, model: str = "model.onnx") -> Path:
    """Write the folder; the model's edits are "red leather" and "blue fabric"."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text(to_toml(load_recipe("sofas", [])))
    told = {"licence": "creativeml-openrail-m", "validated_on": "drawn scenes", "name": "sofas"}
    write_model(folder / model, properties(**told))
    Image.new("RGB", (20, 10), "red").save(folder / "grid.png")
    return folder
