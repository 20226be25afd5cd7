import io
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image
from tiny_model import EDITS, METADATA, OFFSETS, noise, properties, write_model

from inference import runtime
from inference.runtime import EditError, ImageError, ModelFileError, ProviderError, Translator, TranslatorError


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Translator:
    path = write_model(tmp_path_factory.mktemp("model") / "model.onnx", properties())
    return Translator.load(path, num_threads=1)


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


def test_a_large_image_keeps_its_detail(translator):
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
    with pytest.raises(EditError, match="an edit is a name, not int: this model has 'red leather', 'blue fabric'"):
        translator(noise(8, 8), 0)
    with pytest.raises(EditError) as caught:
        translator(noise(8, 8), "red" * 100_000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), -float("inf"), 10.01, 1e300, "1", None, True])
def test_a_strength_that_is_no_number_in_range_is_refused(translator, strength):
    with pytest.raises(EditError, match=re.escape(f"strength is {strength!r}: give a number from -10 to 10")):
        translator(noise(8, 8), "red leather", strength=strength)


@pytest.mark.parametrize("strength", [-10, 10, np.float32(0.5), np.int64(1), 0.0, -0.0])
def test_numbers_of_any_kind_are_strengths(translator, strength):
    expected = noise(64, 64).astype(float)
    expected[:, :32] += OFFSETS[0] * float(strength) * 127.5
    edited = translator(noise(64, 64), "red leather", strength=strength)
    assert np.abs(edited - np.rint(expected).clip(0, 255)).max() <= 1


def test_numbers_that_overflow_are_refused(translator, monkeypatch):
    monkeypatch.setattr(translator, "_difference", lambda images, *_: np.full((len(images), 3, 64, 64), np.nan))
    with pytest.raises(EditError, match="overflow at strength 3"):
        translator(noise(64, 64), "red leather", strength=3)


def test_bad_images_are_refused_clearly(translator, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("no image")
    buffer = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(buffer, "JPEG")
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(buffer.getvalue()[:900])
    cases = {
        "no image at .*absent.png": tmp_path / "absent.png",
        "notes.txt cannot be read as an image": text,
        "cut.jpg cannot be read as an image": cut,
        "the image cannot be read": Image.open(io.BytesIO(buffer.getvalue()[:900])),
        "cannot be read as an image": tmp_path,
        r"shape \(8, 8, 3\) and type float32": noise(8, 8).astype(np.float32),
        r"shape \(8, 8\)": noise(8, 8)[..., 0],
        r"shape \(8, 8, 4\)": np.zeros((8, 8, 4), np.uint8),
        r"shape \(0, 8, 3\)": np.zeros((0, 8, 3), np.uint8),
        "has numbers from 7 to 7, which is not a range of images": Image.new("F", (8, 8), 7),
        "has numbers from -1 to -1, which": Image.new("I", (8, 8), -1),
        "the image is empty: its size is 0x8": Image.new("RGB", (0, 8)),
        "cannot be read as an image: embedded null byte": "room\0.png",
        "int is not an image: give a path": 7,
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
        "size_multiple is not a whole number from 1 to 8192": write_model(
            tmp_path / "odd.onnx", properties(size_multiple=0)
        ),
        "edits are no table of 1 to 1000 names": write_model(tmp_path / "none.onnx", properties(edits={})),
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


def test_it_runs_on_what_it_is_told_to(tmp_path):
    path = write_model(tmp_path / "model.onnx", properties())
    for providers in (None, ["cpu"], ["CPUExecutionProvider"], "cpu"):
        assert Translator.load(path, providers).providers[-1] == "CPUExecutionProvider"
    for providers in (["tpu"], ["cuda", "tpu", "cpu"], []):
        with pytest.raises(ProviderError, match=r"onnxruntime has no .* here, only .*CPUExecutionProvider"):
            Translator.load(path, providers)


def test_the_best_provider_is_chosen_and_the_cpu_takes_over(tmp_path, monkeypatch):
    """A stand-in for drivers that no test machine has: CUDA's provider is there, and fails to start."""
    path = write_model(tmp_path / "model.onnx", properties())
    session, asked = ort.InferenceSession, []

    def open_session(file, options, providers, **rest):
        asked.append(providers)
        if providers[0] != "CPUExecutionProvider":
            raise RuntimeError("CUDA failure 35: driver too old")
        return session(file, options, providers=providers, **rest)

    found = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "AzureExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: found)
    monkeypatch.setattr(ort, "InferenceSession", open_session)
    assert Translator.load(path).providers == ["CPUExecutionProvider"]
    assert asked == [["CUDAExecutionProvider", "CPUExecutionProvider"], ["CPUExecutionProvider"]]
    with pytest.raises(ModelFileError, match="CUDA failure 35: driver too old"):
        Translator.load(path, ["cuda"])
    monkeypatch.setattr(ort, "InferenceSession", lambda *a, **k: session(str(path), providers=found[-1:]))
    with pytest.raises(ProviderError, match="CUDAExecutionProvider does not start on this machine"):
        Translator.load(path, ["cuda"])


def test_cuda_finds_its_libraries_and_takes_no_more_memory(tmp_path, monkeypatch, capsys):
    """A stand-in for a GPU: what a session on CUDA is made with, and in which order."""
    path = write_model(tmp_path / "model.onnx", properties())
    session, calls = ort.InferenceSession, []

    def open_session(file, options, providers, provider_options, **rest):
        calls.append(dict(zip(providers, provider_options, strict=True)))
        return session(file, options, providers=["CPUExecutionProvider"], **rest)

    def preload_dlls():
        print("Failed to load libcublasLt.so.13")
        calls.append("preload")

    runtime._preload_cuda.cache_clear()
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", open_session)
    monkeypatch.setattr(ort, "preload_dlls", preload_dlls)
    Translator.load(path, ["cpu"])
    assert calls == [{"CPUExecutionProvider": {}}], "nothing of CUDA is loaded for the CPU"
    Translator.load(path)
    Translator.load(path)
    runtime._preload_cuda.cache_clear()
    cuda = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
    on_cuda = {"CUDAExecutionProvider": cuda, "CPUExecutionProvider": {}}
    assert calls[1:] == ["preload", on_cuda, on_cuda], "once a process"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("side", "num"), [(64, 8), (512, 8), (520, 7), (768, 3), (1024, 2), (1456, 1), (4096, 1), (8192, 1)]
)
def test_batches_are_bounded_by_pixels(side, num):
    assert runtime.max_batch(side, side) == num
    assert runtime.max_batch(2 * side, side // 2) == num


def test_large_images_go_through_the_network_in_fewer(tmp_path, monkeypatch):
    large = Translator.load(write_model(tmp_path / "model.onnx", properties(training_size=1024)), num_threads=1)
    run, passes = large._difference, []
    monkeypatch.setattr(large, "_difference", lambda images, *rest: passes.append(images.shape) or run(images, *rest))
    arrays = [noise(1024, 1024, seed) for seed in range(3)]
    for array, edited in zip(arrays, large(arrays, "blue fabric"), strict=True):
        assert edited[0, 0].tolist() == np.rint(array[0, 0] + OFFSETS[1] * 127.5).astype(int).tolist()
    assert passes == [(2, 1024, 1024, 3), (1, 1024, 1024, 3)]


def test_a_model_on_the_hub_is_fetched_by_its_address(tmp_path, monkeypatch):
    """The Hub's own client against its cache, which is laid out as a download leaves it."""
    repository = tmp_path / "models--owner--rooms"
    snapshot = repository / "snapshots" / ("0" * 40)
    (snapshot / "small").mkdir(parents=True)
    (repository / "refs").mkdir()
    for revision in ("main", "v1"):
        (repository / "refs" / revision).write_text("0" * 40)
    write_model(snapshot / "model.onnx", properties(name="default"))
    write_model(snapshot / "small" / "a.onnx", properties(name="named"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    names = {
        "hf://owner/rooms": "default",
        "hf://owner/rooms@v1": "default",
        "hf://owner/rooms/small/a.onnx": "named",
        "hf://owner/rooms@main/small/a.onnx": "named",
    }
    for address, name in names.items():
        assert Translator.load(address).metadata["name"] == name
    cases = {
        "hf://owner/rooms/b.onnx": "owner/rooms has no file b.onnx: name one",
        "hf://owner/absent": "hf://owner/absent cannot be fetched: .* check the name and the network",
        "hf://owner": "hf://owner is not an address on the Hub: write hf://owner/name",
    }
    for address, message in cases.items():
        with pytest.raises(ModelFileError, match=message) as caught:
            Translator.load(address)
        assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelFileError, match="needs huggingface_hub: pip install huggingface_hub"):
        Translator.load("hf://owner/rooms")


def test_importing_it_takes_no_time_of_its_own():
    code = (
        "import time, numpy, onnxruntime, PIL.Image, PIL.ImageOps; began = time.process_time();"
        "import inference.runtime; print(time.process_time() - began)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float(output) < 0.3


def test_three_copied_files_stand_alone(translator, tmp_path):
    """Copied out of the project they work still: only the standard library, numpy, Pillow and onnxruntime."""
    for module in (runtime, runtime.reader, runtime.reader.enlargement):
        (tmp_path / Path(module.__file__).name).write_bytes(Path(module.__file__).read_bytes())
    photo = Image.fromarray(np.dstack([noise(40, 60)[..., 0]] * 3))
    photo.convert("CMYK").save(tmp_path / "photo.jpg")
    model = write_model(tmp_path / "model.onnx", properties())
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from runtime import Translator\n"
        "Translator.load(sys.argv[2])(sys.argv[3], 'red leather').save(sys.argv[4])\n"
        "print(*(n for n in ('torch', 'diffusers', 'onnx', 'pydantic', 'synth', 'inference') if n in sys.modules))"
    )
    # No site-packages of the project's own: an editable install would find `synth` for a copy, too.
    blocked = "import sys; sys.modules['synth'] = None\n" + code
    paths = [str(tmp_path), str(model), str(tmp_path / "photo.jpg"), str(tmp_path / "out.png")]
    run = [sys.executable, "-I", "-c", blocked, *paths]
    output = subprocess.run(run, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert output.split() == ["synth"]  # the name that is blocked
    expected = translator(tmp_path / "photo.jpg", "red leather")
    assert np.array_equal(Image.open(tmp_path / "out.png"), expected)
