"""A pixel network as model files: the student's contract, held to parity in every format and precision."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill.pixel import PixelNetwork, new_network
from distill.settings import PixelSettings
from inference.export.files import export_pixel_files
from inference.export.formats import open_file, read_metadata
from inference.export.parity import MAX_DIFFERENCE, MIN_PSNR_DB, ParityReport
from inference.runtime import Translator
from inference.settings import EVERY_KIND, MAIN, Kind, ModelMetadata
from synth.errors import ExportError

EDITS = {"red-leather": "a red leather sofa", "blue-fabric": "a blue fabric sofa"}
METADATA = ModelMetadata(
    name="sofas-pixel",
    edits=EDITS,
    training_size=40,
    network="pixel network, small: one pass, no VAE",
    teacher="tiny",
    licence="apache-2.0",
    data_fingerprint="0123abcd",
    validated_on="nothing: a test",
)


def smooth(num: int, side: int = 40) -> np.ndarray:
    """Soft patterns, uint8 (N, side, side, 3)."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (num, 6, 6, 3), np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)) for image in small]
    )


@pytest.fixture(scope="module")
def network() -> PixelNetwork:
    """Its normalizations have seen images, as after a training."""
    made = new_network(EDITS, PixelSettings(widths=(8, 12))).train()
    x = torch.from_numpy(smooth(8)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        for _ in range(20):
            made(x, torch.arange(8) % 2, torch.ones(8))
    return made.eval()


@pytest.fixture(scope="module")
def written(network: PixelNetwork, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Kind, ParityReport]]:
    folder = tmp_path_factory.mktemp("files")
    files = {kind: folder / kind.pixel_file_name for kind in EVERY_KIND}
    return folder, dict(export_pixel_files(network, METADATA, files, smooth(2), smooth(8)))


@pytest.mark.parametrize("kind", EVERY_KIND, ids=lambda kind: kind.pixel_file_name)
def test_every_kind_passes_parity(written: tuple[Path, dict[Kind, ParityReport]], kind: Kind) -> None:
    folder, reports = written
    report = reports[kind]
    if kind.precision in MAX_DIFFERENCE:
        assert report.max_difference <= MAX_DIFFERENCE[kind.precision]
    else:
        assert report.min_psnr_db >= MIN_PSNR_DB[kind.precision]
    assert any(case.height % 8 and case.width % 8 for case in report.cases), "sizes that are padded inside"
    metadata = read_metadata(folder / kind.pixel_file_name)
    assert metadata["edits"] == EDITS and metadata["size_multiple"] == 1
    assert metadata["network"] == METADATA.network and metadata["precision"] == kind.precision


def test_the_names_of_the_files() -> None:
    assert MAIN.pixel_file_name == "model.pixel.onnx"
    assert Kind("pt2", "float16").pixel_file_name == "model.pixel-float16.pt2"


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (13, 4), (48, 32), (90, 61)])
def test_the_file_answers_as_the_unfolded_network(
    written: tuple[Path, dict[Kind, ParityReport]], network: PixelNetwork, size: tuple[int, int]
) -> None:
    run = open_file(written[0] / "model.pixel.onnx", "onnx")
    image = np.random.default_rng(1).uniform(-1, 1, (3, 3, *size)).astype(np.float32)
    feeds = {"image": image, "edit": np.array([0, 1, 1]), "strength": np.array([1.0, -0.5, 0.0], np.float32)}
    with torch.no_grad():
        expected = network(*(torch.from_numpy(value) for value in feeds.values())).numpy()
    actual = run(feeds)
    assert np.abs(actual - expected).max() < 1e-4
    assert np.array_equal(actual[2], image[2]), "strength 0"


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_the_runtime_takes_it_at_any_size(written: tuple[Path, dict[Kind, ParityReport]], precision: str) -> None:
    translator = Translator.load(written[0] / Kind("onnx", precision).pixel_file_name)
    for height, width in ((1, 1), (41, 39), (300, 120)):
        image = np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8)
        assert np.array_equal(translator(image, "red-leather", 0.0), image)
        assert translator(image, "red-leather").shape == image.shape
    # At the training's size nothing is resized: the file sees the very pixels.
    image = smooth(1)[0]
    run = open_file(written[0] / Kind("onnx", precision).pixel_file_name, "onnx")
    x = image.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1
    direct = run({"image": x, "edit": np.array([1]), "strength": np.ones(1, np.float32)})[0].transpose(1, 2, 0)
    assert np.abs(translator(image, "blue-fabric").astype(float) - (direct + 1) * 127.5).max() <= 1


def test_a_batch_is_as_its_images_alone(written: tuple[Path, dict[Kind, ParityReport]]) -> None:
    translator = Translator.load(written[0] / "model.pixel.onnx")
    images = smooth(3)
    together = translator(images, "blue-fabric").astype(int)
    alone = np.stack([translator(image, "blue-fabric") for image in images])
    assert np.abs(together - alone).max() <= 1


def test_other_edits_in_the_metadata_are_refused(network: PixelNetwork, tmp_path: Path) -> None:
    other = METADATA.model_copy(update={"edits": {"green": "a green sofa"}})
    with pytest.raises(ExportError, match="knows red-leather, blue-fabric and the metadata names green"):
        list(export_pixel_files(network, other, {MAIN: tmp_path / "model.pixel.onnx"}, smooth(2)))
    assert not list(tmp_path.iterdir())


def test_onnx_runtime_mobile_takes_it(written: tuple[Path, dict[Kind, ParityReport]], tmp_path: Path) -> None:
    """By ONNX Runtime's own converter: the same pixels and metadata, in the one file that its mobile builds read."""
    (tmp_path / "pixel.onnx").write_bytes((written[0] / MAIN.pixel_file_name).read_bytes())
    converter = (sys.executable, "-m", "onnxruntime.tools.convert_onnx_models_to_ort")
    subprocess.run(
        [*converter, str(tmp_path / "pixel.onnx"), "--optimization_style", "Fixed"], check=True, capture_output=True
    )
    ours, mobile = Translator.load(tmp_path / "pixel.onnx"), Translator.load(tmp_path / "pixel.ort")
    assert mobile.metadata == ours.metadata
    for image in (smooth(1)[0], smooth(1, 57)[0, :33]):
        for edit in EDITS:
            expected = ours(image, edit).astype(int)
            assert np.abs(mobile(image, edit).astype(int) - expected).max() <= 1
            assert np.abs(expected - image).max() > 1, "an edit that does something"
            assert np.array_equal(mobile(image, edit, 0), image)
