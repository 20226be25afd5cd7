"""Opens a source of photographs, whatever it is."""

import posixpath
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from synth.dataset.sources.archives import SUFFIXES as ARCHIVES
from synth.dataset.sources.archives import open_archive
from synth.dataset.sources.files import list_tree, open_files
from synth.dataset.sources.metadata import FolderCaptions, table_has_images
from synth.dataset.sources.photo import Part, PhotoSource
from synth.dataset.sources.tables import no_such_split, open_hub, open_parquet, open_saved, refuse_ignored
from synth.errors import DatasetError, os_reason
from synth.settings import PhotoSettings

_SAVED = ("dataset_dict.json", "state.json")  # of `save_to_disk`
_WITH_COLUMNS = (".jsonl", ".csv", ".parquet", ".json")  # captions with names, unlike texts beside images
_KINDS = "a folder, a Parquet file, a tar archive, or the Hub id of a dataset"


def open_photos(source: str, settings: PhotoSettings, skip: Path | None = None) -> PhotoSource:
    """Open a source of photographs.

    Args:
        source: a folder, a Parquet file, a tar archive, or a dataset of the Hub. A folder may hold image files with
            captions beside them, archives and Parquet with images, or what `Dataset.save_to_disk` wrote.
        settings: the columns of images and captions, and the split.
        skip: a folder below the source that does not belong to it: the set that is made of it.

    Raises:
        DatasetError: if there is no such source, it cannot be read, it lacks a column or split, or a column or split
            is set that this kind of source does not have.
    """
    path = Path(source)
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise DatasetError(f"{source} cannot be read: {os_reason(error)}") from None
    place = str(path.resolve())
    if is_folder:
        return PhotoSource(place, _open_folder(path, settings, skip))
    if exists and path.suffix == ".parquet":
        refuse_ignored(settings, source, "split")
        return PhotoSource(place, open_parquet(path.parent, [path.name], settings))
    if exists and path.name.lower().endswith(ARCHIVES):
        refuse_ignored(settings, source, "split", "image_column")
        return PhotoSource(place, [open_archive(path, path.name, None, settings.caption_column)])
    if exists:
        raise DatasetError(f"{source} is not {_KINDS}: put the images into a folder")
    return PhotoSource(source, [open_hub(source, settings)])


def captions_of(files: Sequence[Path], wanted: str | None = None) -> dict[Path, str]:
    """Return the captions of image files, as an import of their folders finds them; files without one are left out.

    Raises:
        DatasetError: if the metadata cannot be read.
    """
    found: dict[Path, str] = {}
    for folder in dict.fromkeys(file.parent for file in files):
        captions = FolderCaptions(folder, [name for name in list_tree(folder, None)[0] if "/" not in name], wanted)
        found |= {file: captions.of(file.name) for file in files if file.parent == folder}
    return {file: caption for file, caption in found.items() if caption}


def _open_folder(folder: Path, settings: PhotoSettings, skip: Path | None) -> list[Part]:
    if any((folder / name).is_file() for name in _SAVED):
        return [open_saved(folder, settings)]
    names, problems = list_tree(folder, skip)
    if declared := _declared(folder, names):
        if settings.split not in declared:
            raise no_such_split(folder, settings.split, declared)
        return open_parquet(folder, declared[settings.split], settings)
    captions = FolderCaptions(folder, names, settings.caption_column)
    rest = [name for name in names if name not in captions.used]
    archives = [name for name in rest if name.lower().endswith(ARCHIVES)]
    parquet = [name for name in rest if name.lower().endswith(".parquet")]
    tables = [name for name in parquet if _has_images(folder / name)]
    files = [name for name in rest if name not in {*archives, *tables}]
    # Where there is nothing else, a message about its columns helps more than "not an image".
    if parquet and files == parquet and not archives:
        tables, files = parquet, []
    has_columns = tables or archives or any(name.lower().endswith(_WITH_COLUMNS) for name in captions.used)
    without = [*([] if tables else ["image_column"]), *([] if has_columns else ["caption_column"])]
    refuse_ignored(settings, folder, "split", *without)
    parts = [open_files(folder, files, captions, problems)] if files or problems or captions.used else []
    parts += [open_archive(folder / name, name, captions, settings.caption_column) for name in archives]
    return [*parts, *(open_parquet(folder, tables, settings) if tables else [])]


def _has_images(path: Path) -> bool:
    try:
        return table_has_images(path)
    except (OSError, ValueError):
        return False  # a row in the rejects says so


def _declared(folder: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """Return the Parquet files that the folder's card names, by split, as the Hub and this project write it; or none.

    Such a folder may also hold thumbnails, rejects and other configurations, which are no photographs.
    """
    from huggingface_hub.repocard import metadata_load

    if "README.md" not in names:
        return {}
    try:
        configs = (metadata_load(folder / "README.md") or {}).get("configs") or []
    except Exception:  # anybody's README; YAML's errors have a base class of their own
        return {}
    usual = [config for config in configs if isinstance(config, dict) and config.get("config_name") == "default"]
    chosen = next(iter([*usual, *configs]), None)
    patterns = _patterns(chosen.get("data_files")) if isinstance(chosen, dict) else {}
    parquet = [name for name in names if name.endswith(".parquet")]
    matching = {
        split: [name for name in parquet if any(fnmatch(name, posixpath.normpath(each)) for each in own)]
        for split, own in patterns.items()
    }
    return {split: files for split, files in matching.items() if files}


def _patterns(data_files: Any, split: str = "train") -> dict[str, list[str]]:
    """Return the patterns in a card's `data_files`, by split; what names no split is of `split`."""
    if isinstance(data_files, str):
        return {split: [data_files]}
    if isinstance(data_files, dict):
        return _patterns(data_files.get("path"), str(data_files.get("split", split)))
    found: dict[str, list[str]] = {}
    for item in data_files if isinstance(data_files, list) else []:
        for name, patterns in _patterns(item, split).items():
            found.setdefault(name, []).extend(patterns)
    return found
