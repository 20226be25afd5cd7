"""Images, rows and model files from somebody else are data: no program starts, no file of this machine is read."""

import ast
import io
import json
import zipfile
from pathlib import Path

import datasets
import huggingface_hub
import pillow_heif
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tiny_model import METADATA, properties, write_model

from inference import runtime
from inference.export.formats import read_metadata
from synth.dataset.importing import import_photos
from synth.dataset.photographs import Rejected, prepared
from synth.errors import DatasetError, ExportError, ImageInputError
from synth.images.encoding import open_image
from synth.images.reader import FORMATS
from synth.settings import PhotoSettings

SETTINGS = PhotoSettings(image_size=32, min_side=8)
ROOT = Path(__file__).parents[2]


def _bytes(format: str) -> bytes:
    buffer = io.BytesIO()
    if format == "HEIF":
        pillow_heif.register_heif_opener()
    Image.new("RGB", (64, 64), "red").save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["EPS", "PPM", "PCX", "TGA", "ICO"])
def test_only_listed_formats_open_whatever_the_name(tmp_path, format):
    path = tmp_path / "image.png"
    path.write_bytes(_bytes(format))
    with pytest.raises(ImageInputError):
        open_image(path)
    with pytest.raises(Rejected):
        prepared(path.read_bytes(), SETTINGS)
    with pytest.raises(runtime.ImageError):
        runtime._open(path)


@pytest.mark.parametrize("format", FORMATS)
def test_each_listed_format_opens(tmp_path, format):
    path = tmp_path / "image"
    path.write_bytes(_bytes(format))
    assert open_image(path).size == (64, 64)
    assert runtime._open(path).pixels.shape == (64, 64, 3)


def test_one_module_opens_images():
    """Whatever comes from outside goes through one reader, which opens no format but those of its list."""
    for package in ("flows", "inference", "distill", "synth"):
        for path in (ROOT / package).rglob("*.py"):
            if path == ROOT / "synth" / "images" / "reader.py":
                continue
            tree = ast.parse(path.read_text(encoding="utf-8"))
            called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
            assert not called & {"Image.open", "PIL.Image.open", "exif_transpose", "ImageOps.exif_transpose"}, path
            assert "register_heif_opener" not in called or path.name == "writer.py", path


def test_the_examples_open_listed_formats():
    """They stand alone, as an app's own program does."""
    for path in (ROOT / "examples").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open":
                assert "formats" in {keyword.arg for keyword in node.keywords}, f"{path}:{node.lineno}"


@pytest.mark.parametrize("as_text", [True, False])
def test_a_parquet_row_reads_no_file(tmp_path, as_text):
    secret = tmp_path / "secret.png"
    secret.write_bytes(_bytes("PNG"))
    row = str(secret) if as_text else {"bytes": None, "path": str(secret)}
    (tmp_path / "set").mkdir()
    pq.write_table(pa.table({"image": [row]}), tmp_path / "set" / "a.parquet")
    with pytest.raises(DatasetError, match=r"row 0 names a file of this machine"):
        import_photos(str(tmp_path / "set"), SETTINGS, tmp_path / "out", progress=False)
    assert not list((tmp_path / "out").rglob("*.parquet"))


@pytest.mark.parametrize("way", ["plain", "dots", "link"])
def test_a_row_of_the_hub_reads_nothing_outside_the_cache(tmp_path, monkeypatch, way):
    cache, secret = tmp_path / "cache", tmp_path / "secret.png"
    cache.mkdir()
    secret.write_bytes(_bytes("PNG"))
    (cache / "link.png").symlink_to(secret)
    path = {"plain": secret, "dots": cache / ".." / "secret.png", "link": cache / "link.png"}[way]
    rows = datasets.Dataset.from_dict({"image": [str(path)]}).cast_column("image", datasets.Image())
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: rows)
    with pytest.raises(DatasetError, match=r"row train/0 names a file of this machine"):
        import_photos("somebody/images", SETTINGS, tmp_path / "out", progress=False)


class _AddOne(torch.nn.Module):
    def forward(self, x):
        return x + 1


@pytest.mark.parametrize("ending", ["torchscript", "pt2"])
def test_metadata_is_read_without_loading(tmp_path, monkeypatch, ending):
    path, extra = tmp_path / f"model.{ending}", {"distillery.json": json.dumps(METADATA)}
    if ending == "pt2":
        torch.export.save(torch.export.export(_AddOne(), (torch.zeros(2),)), path, extra_files=extra)
    else:
        torch.jit.save(torch.jit.trace(_AddOne(), torch.zeros(2)), str(path), _extra_files=extra)
    for module in (torch.jit, torch.export):
        monkeypatch.setattr(module, "load", lambda *a, **k: pytest.fail("the file was loaded"))
    assert read_metadata(path) == METADATA


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"[" * 200_000, b'{"a": "' + b"x" * 2_000_000 + b'"}', b"\xff\xfe", None, json.dumps(1).encode()],
)
@pytest.mark.parametrize("ending", ["torchscript", "pt2"])
def test_metadata_that_lies_is_one_line(tmp_path, ending, content):
    path = tmp_path / f"model.{ending}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", b"")
        if content is not None:
            archive.writestr("model/extra/distillery.json", content)
    with pytest.raises(ExportError, match=rf"model\.{ending} .*: export it again$"):
        read_metadata(path)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"training_size": True}, "training_size is not a whole number"),
        ({"size_multiple": 10**9}, "size_multiple is not a whole number"),
        ({"edits": {"x" * 300: "long"}}, "name is empty or longer"),
        ({"schema_version": 2}, "schema version 2"),
        ({"metrics": float("nan")}, "broken metadata"),
    ],
)
@pytest.mark.parametrize("ending", ["onnx", "torchscript", "pt2"])
def test_metadata_beyond_bounds_is_one_line(tmp_path, ending, changes, problem):
    """The bounds are the runtime's, whatever the format."""
    path = tmp_path / f"model.{ending}"
    if ending == "onnx":
        write_model(path, properties(**changes))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model/extra/distillery.json", json.dumps(METADATA | changes))
    with pytest.raises(ExportError, match=rf"model\.{ending} has .*{problem}.*: ") as caught:
        read_metadata(path)
    assert "\n" not in str(caught.value)
