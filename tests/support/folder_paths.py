"""A stand-in for ComfyUI's module of this name: as much of it as a node with model files asks for.

Written from its documentation; the real one needs all of ComfyUI.
"""

import os

base_path = os.environ["COMFYUI_OF_THE_TEST"]
models_dir = os.path.join(base_path, "models")
folder_names_and_paths: dict[str, tuple[list[str], set[str]]] = {}


def add_model_folder_path(folder_name: str, full_folder_path: str, is_default: bool = False) -> None:
    paths, _ = folder_names_and_paths.setdefault(folder_name, ([], set()))
    paths.insert(0 if is_default else len(paths), full_folder_path)


def get_filename_list(folder_name: str) -> list[str]:
    found = []
    for folder in folder_names_and_paths[folder_name][0]:
        for place, _, names in os.walk(folder):
            found += [os.path.relpath(os.path.join(place, name), folder) for name in names]
    return sorted(found)


def get_full_path_or_raise(folder_name: str, filename: str) -> str:
    for folder in folder_names_and_paths[folder_name][0]:
        if os.path.isfile(path := os.path.join(folder, filename)):
            return path
    raise FileNotFoundError(f"Model in folder '{folder_name}' with filename '{filename}' not found.")
