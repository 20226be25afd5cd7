import io
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from inference import runtime
from inference.runtime import EditError, ImageError, ModelFileError, Translator, TranslatorError

EDITS = {"red leather": "a red leather sofa", "blue fabric": "a blue fabric sofa"}
OFFSETS = np.array([[0.4, -0.2, -0.2], [-0.2, -0.2, 0.4]], np.float32)  # what each edit adds, in [-1, 1] pixels
METADATA = {"schema_version": 1, "edits": EDITS, "training_size": 64, "size_multiple": 8, "teacher": "none"}


def write_model(path: Path, properties: dict[str, str]) -> Path:
    """A model file to the contract, of five nodes: it edits the left half by its edit's offset."""
    nodes = [
        helper.make_node("Gather", ["offsets", "edit"], ["offset"]),  # (N, 3, 1, 1)
        helper.make_node("Reshape", ["strength", "column"], ["strength4"]),  # (N, 1, 1, 1)
        helper.make_node("Mul", ["offset", "strength4"], ["change"]),
        helper.make_node("Split", ["image"], ["left", "right"], axis=3, num_outputs=2),
        helper.make_node("Add", ["left", "change"], ["edited"]),
        helper.make_node("Concat", ["edited", "right"], ["whole"], axis=3),
        helper.make_node("Clip", ["whole", "low", "high"], ["translated"]),
    ]
    constants = {
        "offsets": OFFSETS.reshape(2, 3, 1, 1),
        "column": np.array([-1, 1, 1, 1], np.int64),
        "low": np.float32(-1),
        "high": np.float32(1),
    }
    picture = ["N", 3, "H", "W"]
    graph = helper.make_graph(
        nodes,
        "test",
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, picture),
            helper.make_tensor_value_info("edit", TensorProto.INT64, ["N"]),
            helper.make_tensor_value_info("strength", TensorProto.FLOAT, ["N"]),
        ],
        [helper.make_tensor_value_info("translated", TensorProto.FLOAT, picture)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    helper.set_model_props(model, properties)
    onnx.save(model, str(path))
    return path


def properties(**changes: object) -> dict[str, str]:
    return {f"distillery.{key}": json.dumps(value) for key, value in (METADATA | changes).items()}


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Translator:
    return Translator.load(write_model(tmp_path_factory.mktemp("model") / "model.onnx", properties()))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 (H, W, 3), away from the ends of the range, so that no edit clips."""
    return np.random.default_rng(seed).integers(60, 190, (height, width, 3), dtype=np.uint8)


def test_an_edit_is_the_models_own_answer_where_the_size_fits(translator):
    image = noise(64, 64)
    edited = translator(image, "red leather", strength=0.5)
    expected = image.astype(float)
    expected[:, :32] += OFFSETS[0] * 0.5 * 127.5
    assert edited.dtype == np.uint8
    assert np.array_equal(edited, np.rint(expected))


@pytest.mark.parametrize("size", [(64, 64), (61, 97), (1, 1), (3, 200), (200, 3), (333, 250)])
def test_strength_zero_gives_back_the_pixels(translator, size):
    image = noise(*size)
    edited = translator(image, "blue fabric", strength=0)
    assert np.array_equal(edited, image)
    assert edited is not image and not np.shares_memory(edited, image)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (97, 61), (700, 500)])
def test_any_size_is_edited_and_returned_at_that_size(translator, size):
    edited = translator(np.full((*size, 3), 128, np.uint8), "red leather")
    assert edited.shape == (*size, 3)
    assert edited[0, 0, 0] > 150  # the left half turns red
    if size[1] > 10:
        assert edited[0, 0].tolist() == [179, 102, 102]
        assert edited[-1, -1].tolist() == [128, 128, 128]


def test_a_large_picture_keeps_its_detail(translator):
    image = noise(900, 1200)
    edited = translator(image, "blue fabric")
    change = edited.astype(float) - image
    assert np.abs(change[:, :500] - np.rint(OFFSETS[1] * 127.5)).max() <= 1  # the very same noise, bluer
    assert np.array_equal(edited[:, 700:], image[:, 700:])  # untouched to the last bit


def test_network_sees_the_training_area_in_whole_multiples(translator):
    sizes = {
        size: translator._network_size(*size) for size in [(64, 64), (3000, 4000), (500, 1000), (9, 9000), (9000, 9)]
    }
    assert sizes == {
        (64, 64): (64, 64),
        (3000, 4000): (56, 72),
        (500, 1000): (48, 88),
        (9, 9000): (32, 128),
        (9000, 9): (128, 32),
    }


def test_each_kind_comes_back_as_it_came(translator, tmp_path):
    array = noise(64, 80)
    image = Image.fromarray(array)
    path = tmp_path / "room.png"
    image.save(path)
    expected = translator(array, "red leather")

    from_image = translator(image, "red leather")
    assert isinstance(from_image, Image.Image)
    assert np.array_equal(from_image, expected)
    assert np.array_equal(translator(path, "red leather"), expected)
    assert np.array_equal(translator(str(path), "red leather"), expected)

    batch = translator(np.stack([array, array]), "red leather")
    assert isinstance(batch, np.ndarray) and np.array_equal(batch, np.stack([expected, expected]))
    assert translator(np.empty((0, 8, 8, 3), np.uint8), "red leather").shape == (0, 8, 8, 3)
    assert translator([], "red leather") == []


def test_lists_mix_sizes_and_kinds_and_keep_their_order(translator, monkeypatch):
    monkeypatch.setattr(runtime, "MAX_BATCH", 2)
    passes = []
    run = translator._session.run

    class Session:
        def run(self, names, feeds):
            passes.append(feeds["image"].shape)
            return run(names, feeds)

    monkeypatch.setattr(translator, "_session", Session())
    arrays = [noise(64, 64, seed) if seed % 2 else noise(40, 80, seed) for seed in range(7)]
    edited = translator(
        [Image.fromarray(array) if i == 3 else array for i, array in enumerate(arrays)], "red leather"
    )
    assert sorted(passes) == [(1, 3, 64, 64), (2, 3, 48, 88), (2, 3, 48, 88), (2, 3, 64, 64)]
    assert isinstance(edited[3], Image.Image)
    for array, result in zip(arrays, edited, strict=True):
        assert np.array_equal(result, translator(array, "red leather"))


def test_exif_orientation_is_applied(translator, tmp_path):
    upright = np.zeros((32, 64, 3), np.uint8)
    upright[:16] = 200  # light above
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees
    path = tmp_path / "photo.png"
    Image.fromarray(np.rot90(upright)).save(path, exif=exif)
    with Image.open(path) as image:
        for source in (path, image):
            edited = translator(source, "red leather", strength=0)
            assert edited.size == (64, 32)
            assert np.array_equal(edited, upright)
            assert 0x0112 not in edited.getexif()


def test_alpha_and_colour_profile_are_kept(translator):
    rgba = np.dstack([noise(40, 40), np.arange(1600, dtype=np.uint16).reshape(40, 40).astype(np.uint8)])
    image = Image.fromarray(rgba)
    image.info["icc_profile"] = b"a profile"
    edited = translator(image, "red leather")
    assert edited.mode == "RGBA"
    assert np.array_equal(edited.getchannel("A"), rgba[..., 3])
    assert np.array_equal(np.asarray(edited)[..., :3], translator(rgba[..., :3], "red leather"))
    assert edited.info["icc_profile"] == b"a profile"
    assert np.array_equal(translator(image, "red leather", strength=0), rgba)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "CMYK", "YCbCr", "I;16"])
def test_other_modes_become_rgb(translator, mode):
    grey = np.full((64, 64), 128, np.uint8)
    if mode == "I;16":
        image = Image.fromarray(np.full((64, 64), 128 * 257, np.uint16))
    elif mode == "1":
        image = Image.new("1", (64, 64), 0)
        grey[:] = 0
    elif mode == "P":
        image = Image.fromarray(grey).quantize()
    else:
        image = Image.fromarray(np.dstack([grey] * 3)).convert(mode)
    assert image.mode == mode
    edited = translator(image, "blue fabric")
    assert edited.mode == ("RGBA" if mode == "LA" else "RGB")
    blue = np.asarray(edited)[..., 2].astype(float)
    assert np.abs(blue[:, 40:] - grey[:, 40:]).max() <= 1
    assert np.abs(blue[:, :20] - grey[:, :20] - 51).max() <= 1


def test_palette_transparency_survives(translator):
    image = Image.new("P", (64, 64), 1)
    image.putpalette([0, 0, 0, 120, 130, 140])
    image.info["transparency"] = 1
    edited = translator(image, "red leather", strength=0)
    assert edited.mode == "RGBA"
    assert edited.getpixel((5, 5)) == (120, 130, 140, 0)


def test_threads_share_a_translator(translator):
    images = [noise(64, 64, seed) for seed in range(8)]
    expected = [translator(image, "red leather") for image in images]
    results: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(target=lambda i=i: results.update({i: translator(images[i], "red leather")}))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(results[i], expected[i]) for i in range(8))


def test_unknown_edit_names_the_nearest(translator):
    with pytest.raises(EditError, match=r"unknown edit 'red lether': did you mean 'red leather'\? this model has"):
        translator(noise(8, 8), "red lether")
    with pytest.raises(EditError, match="unknown edit 'xyz': this model has 'red leather', 'blue fabric'"):
        translator(noise(8, 8), "xyz")
    with pytest.raises(EditError, match="strength is nan"):
        translator(noise(8, 8), "red leather", strength=float("nan"))


def test_bad_pictures_are_refused_clearly(translator, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    buffer = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(buffer, "JPEG")
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(buffer.getvalue()[:900])
    cases = {
        "no picture at .*absent.png": tmp_path / "absent.png",
        "notes.txt cannot be read as a picture": text,
        "cut.jpg cannot be read as a picture": cut,
        "the picture cannot be read": Image.open(io.BytesIO(buffer.getvalue()[:900])),
        "cannot be read as a picture": tmp_path,
        r"shape \(8, 8, 3\) and type float32": noise(8, 8).astype(np.float32),
        r"shape \(8, 8\)": noise(8, 8)[..., 0],
        r"shape \(8, 8, 4\)": np.zeros((8, 8, 4), np.uint8),
        r"shape \(0, 8, 3\)": np.zeros((0, 8, 3), np.uint8),
        "has mode F": Image.new("F", (8, 8)),
        "int is no picture": 7,
    }
    for message, source in cases.items():
        with pytest.raises(ImageError, match=message) as caught:
            translator([source], "red leather")
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, ValueError) and isinstance(caught.value, TranslatorError)


def test_bad_model_files_are_refused_clearly(tmp_path, capfd):
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"junk" * 100)
    broken = properties() | {"distillery.edits": "{"}
    incomplete = properties()
    del incomplete["distillery.training_size"]
    cases = {
        "no model file at .*absent.onnx: check the path": tmp_path / "absent.onnx",
        "junk.onnx is not an ONNX model": junk,
        "not one of this project": write_model(tmp_path / "foreign.onnx", {"author": "somebody"}),
        "broken metadata": write_model(tmp_path / "broken.onnx", broken),
        r"incomplete metadata \(no training_size\)": write_model(tmp_path / "incomplete.onnx", incomplete),
        "schema version 2 and this runtime reads 1": write_model(tmp_path / "new.onnx", properties(schema_version=2)),
    }
    for message, path in cases.items():
        with pytest.raises(ModelFileError, match=message) as caught:
            Translator.load(path)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_metadata_and_edits_can_be_read(translator):
    assert translator.edits == EDITS
    assert list(translator.edits) == list(EDITS)
    assert translator.metadata == METADATA


def test_it_stands_alone():
    """Copied out of the project it works still: only the standard library, numpy, Pillow and onnxruntime."""
    code = (
        "import importlib.util as u, sys\n"
        f"spec = u.spec_from_file_location('alone', {runtime.__file__!r})\n"
        "module = sys.modules['alone'] = u.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print(*(n for n in ('torch', 'diffusers', 'onnx', 'pydantic', 'synth', 'inference') if n in sys.modules))"
    )
    output = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == ""
