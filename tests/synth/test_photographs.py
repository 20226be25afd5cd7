"""Photographs: every file of a folder is imported, or rejected with a reason."""

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skimage
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from synth.dataset.image_dataset import ImageDataset
from synth.dataset.importing import import_photos
from synth.dataset.photographs import Rejected, prepared
from synth.errors import DatasetError
from synth.settings import PhotoSettings

SMALL = PhotoSettings(image_size=64, min_side=16, shard_size=3)
DATA = Path(skimage.__file__).parent / "data"
PHOTOS = sorted(
    path for name in ("coffee", "astronaut", "chelsea", "camera", "coins") for path in DATA.glob(f"{name}.png")
)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def gradient(width: int = 60, height: int = 40) -> Image.Image:
    """Dark on the left, bright on the right, redder below."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([(x + y) / 2, x / 2, x / 2], axis=2).astype(np.uint8))


def rejects(folder: Path) -> dict[str, str]:
    """File -> reason."""
    rows = [row for path in sorted((folder / "rejects").glob("*")) for row in pq.read_table(path).to_pylist()]
    return {row["prompt"]: row["reason"] for row in rows}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Real photographs, and the other files that lie beside photographs on real disks."""
    assert len(PHOTOS) >= 3
    source = tmp_path / "photos"
    (source / "holiday").mkdir(parents=True)
    for path in PHOTOS:
        (source / "holiday" / path.name).write_bytes(path.read_bytes())
    (source / "again.png").write_bytes(PHOTOS[0].read_bytes())
    (source / "notes.txt").write_text("not an image")
    (source / "empty.jpg").write_bytes(b"")
    whole = saved(gradient(200, 150), "JPEG")
    (source / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (source / "strip.png").write_bytes(saved(gradient(400, 20)))
    (source / "icon.png").write_bytes(saved(gradient(8, 8)))
    (source / "metadata.jsonl").write_text(json.dumps({"file_name": "again.png", "text": "a cup of coffee"}) + "\n")
    return source


def test_a_folder_becomes_a_dataset(folder: Path, tmp_path: Path) -> None:
    import_photos(str(folder), SMALL, tmp_path / "set", progress=False)
    images = ImageDataset(tmp_path / "set")
    assert len(images) == len(PHOTOS)  # one of them is there twice
    assert images.prompts[0] == "a cup of coffee" and set(images.prompts[1:]) == {""}
    assert all(image.shape == (64, 64, 3) and image.std() > 10 for image in images)
    assert rejects(tmp_path / "set") == {
        "cut.jpg": "truncated",
        "empty.jpg": "not an image",
        f"holiday/{PHOTOS[0].name}": "the same image as again.png",
        "icon.png": "8 x 8 is smaller than 16",
        "notes.txt": "not an image",
        "strip.png": "400 x 20 is too long and narrow",
    }
    assert f"# {len(PHOTOS)} photographs" in (tmp_path / "set" / "README.md").read_text()


def test_an_import_resumes_and_a_foreign_set_is_refused(folder: Path, tmp_path: Path) -> None:
    import_photos(str(folder), SMALL, tmp_path / "whole", progress=False)
    import_photos(str(folder), SMALL, tmp_path / "stopped", progress=False)
    (tmp_path / "stopped" / "data" / "train-00001.parquet").unlink()
    import_photos(str(folder), SMALL, tmp_path / "stopped", progress=False)
    for path in sorted((tmp_path / "whole" / "data").iterdir()):
        assert (tmp_path / "stopped" / "data" / path.name).read_bytes() == path.read_bytes()
    with pytest.raises(DatasetError, match="image_size is 64 there and 72 here"):
        import_photos(str(folder), SMALL.model_copy(update={"image_size": 72}), tmp_path / "whole", progress=False)


def test_parquet_and_its_captions(tmp_path: Path) -> None:
    rows = {
        "image": [{"bytes": saved(gradient(60 + i, 40)), "path": None} for i in range(4)],
        "text": ["a", "b", "c", None],
    }
    pq.write_table(pa.table(rows), tmp_path / "in.parquet")
    import_photos(str(tmp_path / "in.parquet"), SMALL, tmp_path / "set", progress=False)
    assert ImageDataset(tmp_path / "set").prompts == ["a", "b", "c", ""]
    with pytest.raises(DatasetError, match=r"no column 'photo'; it has image, text"):
        other = SMALL.model_copy(update={"image_column": "photo"})
        import_photos(str(tmp_path / "in.parquet"), other, tmp_path / "other", progress=False)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_every_mode_keeps_light_and_dark(mode: str) -> None:
    """A gradient stays dark on the left and bright on the right."""
    grey = np.asarray(gradient().convert("L"))
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "I":
        image = Image.fromarray(grey.astype(np.int32) * 257)
    elif mode == "F":
        image = Image.fromarray((grey / 255).astype(np.float32))
    else:
        image = gradient().convert(mode)
    made = np.asarray(prepared(saved(image, "TIFF" if mode in ("CMYK", "YCbCr", "F", "I") else "PNG"), SMALL))
    assert made.shape == (64, 64, 3)
    assert made[:, -10:].mean() > made[:, :10].mean() + 50


def test_exif_alpha_and_animations() -> None:
    """EXIF rotation is undone, transparency becomes white, and an animation gives its first frame."""
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    turned = np.asarray(prepared(saved(gradient(), "JPEG", exif=exif, quality=95), SMALL)).astype(int)
    assert turned[-10:].mean() > turned[:10].mean() + 60  # bright at the bottom, where the right side went
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    assert (np.asarray(prepared(saved(clear), SMALL)) == 255).all()
    frames = [Image.new("P", (40, 40), color) for color in (0, 1)]
    assert prepared(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), SMALL).size == (64, 64)


def test_pad_shows_the_whole_image() -> None:
    pad = SMALL.model_copy(update={"fit": "pad"})
    made = np.asarray(prepared(saved(gradient(80, 40)), pad))
    assert (made[0] == 255).all() and (made[-1] == 255).all() and not (made[32] == 255).all()


def test_a_bomb_is_rejected_unopened() -> None:
    header = bytearray(saved(Image.new("RGB", (1, 1)), "BMP"))
    header[18:26] = struct.pack("<ii", 60_000, 60_000)  # its width and height
    with pytest.raises(Rejected, match="too large"):
        prepared(bytes(header), SMALL)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"]), st.data())
def test_damage_is_rejected_and_never_crashes(kind: str, data: st.DataObject) -> None:
    content = bytearray(saved(gradient(), kind))
    for _ in range(data.draw(st.integers(0, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        made = prepared(bytes(content[: data.draw(st.integers(0, len(content)))]), SMALL)
    except Rejected as error:
        assert str(error)
    else:
        assert made.mode == "RGB" and made.size == (64, 64)


def test_sources_without_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.png").write_bytes(saved(gradient()))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    with pytest.raises(DatasetError, match="has no image that can be used"):
        import_photos(str(tmp_path / "empty"), SMALL, tmp_path / "set", progress=False)
    with pytest.raises(DatasetError, match=r"has no image that can be used \(not an image\)"):
        import_photos(str(tmp_path / "texts"), SMALL, tmp_path / "set", progress=False)
    with pytest.raises(DatasetError, match="put the images into a folder"):
        import_photos(str(tmp_path / "a.png"), SMALL, tmp_path / "set", progress=False)
    with pytest.raises(DatasetError, match="neither a folder here nor a Hub dataset"):
        import_photos("nobody/has-this", SMALL, tmp_path / "set", progress=False)
    assert not (tmp_path / "set" / "data").exists()
