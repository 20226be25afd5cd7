"""Export: files that agree with PyTorch at any size, describe themselves, and are whole or not there."""

import gc
import json
import random
import sys
import warnings
import weakref
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from agreement import assert_agrees, assert_same_pixels
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch import nn

from distill.composition import change_of_pixels
from distill.students import CompactStudent, UNetStudent
from inference.export import files as export
from inference.export import tracing
from inference.export.files import export_files
from inference.export.formats import open_file, read_metadata, record_metrics
from inference.export.modules import ExportModule
from inference.export.parity import MAX_DIFFERENCE, ParityReport
from inference.runtime import ProviderError, Translator
from inference.settings import MAIN, ExportSettings, Kind, ModelMetadata
from synth.errors import ExportError

EDITS = {
    "red-leather": "a living room with a red leather sofa",
    "blue-fabric": "a living room with a blue fabric sofa",
    "white-velvet": "a living room with a white velvet sofa",
}
METADATA = ModelMetadata(
    name="sofas",
    edits=EDITS,
    training_size=128,
    teacher="tiny",
    licence="apache-2.0",
    data_fingerprint="0123abcd",
    validated_on="nothing: a test",
)
SMALL = METADATA.model_copy(update={"training_size": 32})


def make_vae(levels: int) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 16, 16, 16)[:levels],
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=levels > 1,  # a third of the tracing
        scaling_factor=0.7,
        shift_factor=0.1,
    )


def make_student(levels: int) -> UNetStudent:
    """A student whose zeroed layer and contexts are no longer zero, as after training: it changes every pixel."""
    torch.manual_seed(1)
    unet = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16, 16)[:levels],
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D")[:levels],
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D")[-levels:],
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    config = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    student = UNetStudent(config, list(EDITS), list(EDITS.values()), context_size=(5, 16), timestep=100)
    nn.init.normal_(student.contexts)
    nn.init.normal_(student.unet.conv_out.weight, std=0.3)
    return student


def make_gentle_vae() -> AutoencoderKL:
    """A VAE whose pixels few bits can represent: random networks are rougher than trained ones."""
    vae = make_vae(1)
    with torch.no_grad():
        vae.decoder.conv_out.weight *= 0.15
    return vae


def make_tiny_vae() -> AutoencoderTiny:
    torch.manual_seed(4)
    channels, blocks = (8, 8, 8, 8), (1, 1, 1, 1)
    vae = AutoencoderTiny(
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        num_encoder_blocks=blocks,
        num_decoder_blocks=blocks,
    )
    with torch.no_grad():
        vae.decoder.layers[-1].weight *= 10  # a random one changes by less than an edit is asked for
    return vae


class ConvStudent(nn.Module):
    """The smallest network that has a student's interface."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.gain = nn.Parameter(gain * torch.linspace(0.5, 1.5, len(EDITS)))

    def forward(self, latents: torch.Tensor, edit: torch.Tensor) -> torch.Tensor:
        delta: torch.Tensor = self.conv(latents) * self.gain[edit][:, None, None, None]
        return delta


class FickleStudent(ConvStudent):
    """Multiplies by a random draw, which a trace freezes."""

    def forward(self, latents: torch.Tensor, edit: torch.Tensor) -> torch.Tensor:
        return super().forward(latents, edit) * random.uniform(1, 2)


class BranchingStudent(ConvStudent):
    """Branches on the values in a tensor, which no trace can follow."""

    def forward(self, latents: torch.Tensor, edit: torch.Tensor) -> torch.Tensor:
        return super().forward(latents, edit) if latents.mean() > 0 else latents


def export_onnx(vae, student, metadata, path, images, settings=None) -> ParityReport:
    """Export the main file alone."""
    ((_, report),) = export_files(vae, student, metadata, {MAIN: path}, images, settings=settings)
    return report


def smooth_images(num: int, height: int, width: int) -> np.ndarray:
    """Smooth colours with some noise, uint8 (N, H, W, 3)."""
    rng = np.random.default_rng(num * height * width)
    ramp = np.linspace(0, 200, width)[None, None, :, None] + rng.uniform(0, 40, (num, height, width, 3))
    return ramp.astype(np.uint8)


@pytest.fixture(scope="module")
def networks() -> tuple[AutoencoderKL, UNetStudent]:
    return make_vae(levels=4), make_student(levels=3)


PT2 = Kind("pt2", "float32")


@pytest.fixture(scope="module")
def from_one_trace(
    networks: tuple[AutoencoderKL, UNetStudent], tmp_path_factory: pytest.TempPathFactory
) -> dict[Kind, tuple[Path, ParityReport]]:
    """A U-Net student's ONNX file and its pt2 file, in folders of their own."""
    files = {kind: tmp_path_factory.mktemp("export") / "new" / kind.file_name for kind in (MAIN, PT2)}
    written = export_files(*networks, METADATA, files, smooth_images(3, 128, 128))
    return {kind: (files[kind], report) for kind, report in written}


@pytest.fixture(scope="module")
def exported(from_one_trace: dict[Kind, tuple[Path, ParityReport]]) -> tuple[Path, ParityReport]:
    return from_one_trace[MAIN]


@pytest.mark.parametrize(
    ("num", "height", "width"),
    [(1, 128, 128), (2, 72, 104), (5, 56, 88), (1, 136, 64), (1, 8, 40), (3, 64, 96)],
)
def test_file_agrees_with_pytorch_at_any_batch_and_size(networks, exported, num, height, width):
    image = torch.from_numpy(smooth_images(num, height, width)).permute(0, 3, 1, 2).float() / 127.5 - 1
    edit = torch.arange(num) % len(EDITS)
    strength = torch.linspace(1.0, 0.3, num)
    with torch.no_grad():
        expected = ExportModule(*networks)(image, edit, strength).numpy()
    session = ort.InferenceSession(str(exported[0]))
    feeds = {"image": image.numpy(), "edit": edit.numpy(), "strength": strength.numpy()}
    (actual,) = session.run(None, feeds)
    assert np.abs(actual - expected).max() < 1e-4
    assert np.abs(actual - image.numpy()).mean() > 0.01  # it does edit
    (untouched,) = session.run(None, feeds | {"strength": np.zeros(num, np.float32)})
    assert np.array_equal(untouched, image.numpy())


def test_module_adds_the_change_of_pixels_to_the_image(networks):
    vae, student = (network.eval() for network in networks)
    image = torch.from_numpy(smooth_images(2, 72, 104)).permute(0, 3, 1, 2).float() / 127.5 - 1
    edit, strength = torch.tensor([2, 0]), torch.tensor([0.5, 1.0])
    with torch.no_grad():
        z = (vae.encode(image).latent_dist.mean - 0.1) * 0.7
        z_edited = z + strength.view(2, 1, 1, 1) * student(z, edit)
        plain, edited = (vae.decode(latents / 0.7 + 0.1).sample for latents in (z, z_edited))
        translated = ExportModule(vae, student)(image, edit, strength)
    cell = image.shape[2] // z.shape[2]
    expected = (image + change_of_pixels(image, edited, plain, cell, strength)).clamp(-1, 1)
    assert_agrees(translated, expected)
    assert translated.abs().max() <= 1


def test_module_does_not_change_the_originals():
    vae, student = make_vae(2).to(torch.bfloat16).train(), ConvStudent().to(torch.bfloat16).train()
    module = ExportModule(vae, student)
    assert {value.dtype for value in module.state_dict().values()} == {torch.float32}
    assert vae.dtype == student.conv.weight.dtype == torch.bfloat16
    assert vae.training and student.training
    assert not module.vae.training and not module.student.training


def test_module_has_no_second_copy_of_the_weights(networks):
    vae, student = networks
    module = ExportModule(vae, student)
    theirs = {weight.data_ptr() for network in networks for weight in network.parameters()}
    assert {weight.data_ptr() for weight in module.parameters()} == theirs
    half = module.in_float16()
    assert {weight.dtype for weight in half.parameters()} == {torch.float16, torch.float32}  # norms stay exact
    assert {weight.dtype for network in networks for weight in network.parameters()} == {torch.float32}
    assert all(weight.requires_grad for weight in student.parameters() if weight.is_floating_point())


ONNX_KINDS = [MAIN, Kind("onnx", "float16"), Kind("onnx", "int8")]


def test_all_kinds_share_one_reference_and_one_file(tmp_path, monkeypatch):
    calls, saved = [], []
    examples, save = export.parity.examples, torch.onnx.ONNXProgram.save
    monkeypatch.setattr(export.parity, "examples", lambda *inputs: calls.append(inputs) or examples(*inputs))
    monkeypatch.setattr(
        torch.onnx.ONNXProgram, "save", lambda self, path, **rest: saved.append(path) or save(self, path, **rest)
    )
    vae, images = make_gentle_vae(), smooth_images(4, 32, 32)
    files = {kind: tmp_path / kind.file_name for kind in ONNX_KINDS}
    reports = dict(export_files(vae, ConvStudent(), SMALL, files, images, images))
    assert len(calls) == 1, "PyTorch answers once for all files"
    assert len(saved) == 1, "float16 needs no second file, and int8 begins with the float32 file that is there"
    assert reports[MAIN].max_difference < 1e-4 < reports[ONNX_KINDS[1]].quantile < 2 / 255
    assert read_metadata(files[ONNX_KINDS[1]])["parity_quantile"] == reports[ONNX_KINDS[1]].quantile
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model-float16.onnx", "model-int8.onnx", "model.onnx"]


def test_a_gpu_without_room_leaves_the_check_to_the_cpu(tmp_path, monkeypatch, caplog):
    """A stand-in for a card: PyTorch's answers do not fit, and ONNX Runtime's session runs out of memory."""

    def out_of_memory(self):
        raise torch.OutOfMemoryError("CUDA out of memory")

    asked = []
    session = ort.InferenceSession

    class Small:
        def __init__(self, *arguments, providers, provider_options, **rest):
            asked.append(dict(zip(providers, provider_options, strict=True)))
            self._real = session(*arguments, providers=["CPUExecutionProvider"], **rest)
            self._fails = len(providers) > 1

        def get_providers(self):
            return ["CUDAExecutionProvider"] if self._fails else ["CPUExecutionProvider"]

        def run(self, *arguments):
            if self._fails:
                raise RuntimeError("Failed to allocate memory for requested buffer of size 4294967296")
            return self._real.run(*arguments)

    for module in ("files", "formats"):  # PyTorch's own exporter looks for a card, too
        monkeypatch.setattr(f"inference.export.{module}.has_gpu", lambda: True)
    monkeypatch.setattr(ExportModule, "cuda", out_of_memory)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", Small)
    path = tmp_path / "model.onnx"
    ((_, report),) = export_files(make_gentle_vae(), ConvStudent(), SMALL, {MAIN: path}, smooth_images(2, 32, 32))
    assert report.max_difference < 1e-4
    assert asked[0]["CUDAExecutionProvider"]["use_tf32"] == "0" and list(asked[1]) == ["CPUExecutionProvider"]
    ours = [record for record in caplog.records if record.name.startswith("inference.")]
    assert [record.message.partition(":")[0] for record in ours] == [
        "the GPU's memory is too small for PyTorch's answers in float32",
        "ONNX Runtime cannot run model.onnx on the GPU (Failed to allocate memory for requested buffer of size "
        "4294967296)",
    ]


def test_export_misses_onnx_runtime_before_it_traces(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(tracing.torch.export, "export", lambda *_, **__: pytest.fail("traced"))
    with pytest.raises(ProviderError, match=r'not installed: pip install "dds-distillery\[cpu\]"'):
        list(
            export_files(
                make_gentle_vae(), ConvStudent(), SMALL, {MAIN: tmp_path / "m.onnx"}, smooth_images(1, 32, 32)
            )
        )


def test_report_covers_odd_sizes_and_batches(exported):
    report = exported[1]
    assert report.max_difference < MAX_DIFFERENCE["float32"]
    assert len({case.batch for case in report.cases}) >= 2
    odd = [case for case in report.cases if case.height // 8 % 2 and case.width // 8 % 2]
    assert odd and any(case.height != case.width for case in odd)
    assert (72, 104) in {(case.height, case.width) for case in report.cases}


def test_file_describes_itself(exported):
    path, report = exported
    model = onnx.load(path)
    onnx.checker.check_model(model)
    properties = {entry.key: json.loads(entry.value) for entry in model.metadata_props if "distillery" in entry.key}
    assert properties["distillery.schema_version"] == 1
    assert list(properties["distillery.edits"].items()) == list(EDITS.items())
    assert properties["distillery.size_multiple"] == 8
    assert properties["distillery.training_size"] == 128
    assert properties["distillery.teacher"] == "tiny"
    assert properties["distillery.licence"] == "apache-2.0"
    assert properties["distillery.data_fingerprint"] == "0123abcd"
    assert properties["distillery.validated_on"] == "nothing: a test"
    assert properties["distillery.parity_max_difference"] == report.max_difference
    assert [opset.version for opset in model.opset_import if opset.domain == ""] == [20]
    assert [path.name for path in path.parent.iterdir()] == ["model.onnx"]


def test_runtime_runs_the_file(networks, exported):
    translator = Translator.load(exported[0])
    images = smooth_images(2, 128, 128)
    edited = translator(images, "white-velvet")
    image = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        expected = ExportModule(*networks)(image, torch.tensor([2, 2]), torch.ones(2))
    expected_uint8 = ((expected + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    assert np.abs(edited - expected_uint8).max() <= 0.51  # rounding, and parity
    assert np.array_equal(translator(images, "white-velvet", strength=0.0), images)


def test_metrics_are_recorded_in_place(exported):
    path = exported[0]
    before = Translator.load(path).metadata
    record_metrics(path, {"red-leather": {"psnr": 25.0}})
    assert Translator.load(path).metadata == before | {"metrics": {"red-leather": {"psnr": 25.0}}}
    assert [path.name for path in path.parent.iterdir()] == ["model.onnx"]


def test_failed_parity_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"an older model")
    with pytest.raises(ExportError, match=r"differs from PyTorch by .* at 32x32, batch 1"):
        export_onnx(make_vae(1), FickleStudent(), SMALL, path, smooth_images(1, 32, 32))
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_bytes() == b"an older model"


def test_parity_catches_a_trace_at_even_sizes(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(export, "TRACE_LATENTS", (16, 24))
    with pytest.raises(ExportError, match=r"the float32 onnx file fails at \d+x\d+, batch 3"):
        export_onnx(make_vae(1), make_student(2), SMALL, tmp_path / "model.onnx", smooth_images(1, 32, 32))
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_edits_in_another_order_are_refused(networks, tmp_path):
    metadata = METADATA.model_copy(update={"edits": dict(reversed(EDITS.items()))})
    with pytest.raises(ExportError, match="the student knows red-leather, blue-fabric, white-velvet"):
        export_onnx(*networks, metadata, tmp_path / "model.onnx", smooth_images(1, 32, 32))


def test_a_tiny_vae_is_exported_like_any_other(tmp_path):
    path = tmp_path / "model.onnx"
    report = export_onnx(make_tiny_vae(), ConvStudent(gain=100.0), SMALL, path, smooth_images(1, 32, 32))
    assert report.max_difference < MAX_DIFFERENCE["float32"]
    image = smooth_images(1, 40, 24)
    model = Translator.load(path)
    assert np.array_equal(model(image, "red-leather", strength=0.0), image)
    assert not np.array_equal(model(image, "red-leather"), image)


def test_a_compact_student_is_exported_like_any_other(tmp_path):
    torch.manual_seed(2)
    student = CompactStudent(4, list(EDITS), list(EDITS.values()), widths=(16, 32, 48))
    nn.init.normal_(student.unet.last.weight, std=0.05)
    kinds = (MAIN, Kind("torchscript", "float32"), Kind("pt2", "float32"))
    files = {kind: tmp_path / kind.file_name for kind in kinds}
    reports = dict(export_files(make_gentle_vae(), student, METADATA, files, smooth_images(2, 32, 32)))
    assert set(reports) == set(kinds)
    assert all(report.max_difference < MAX_DIFFERENCE["float32"] for report in reports.values())
    model, image = Translator.load(files[MAIN]), smooth_images(1, 27, 21)
    red, blue = (model(image, edit) for edit in list(EDITS)[:2])
    assert not np.array_equal(red, image) and not np.array_equal(red, blue)


def test_a_unet_student_is_a_pt2_file_for_every_size(from_one_trace):
    """Parity tries sizes that divide by what the U-Net halves, square ones among them, and sizes that do not."""
    path, report = from_one_trace[PT2]
    assert [file.name for file in path.parent.iterdir()] == ["model.pt2"]
    assert report.max_difference < MAX_DIFFERENCE["float32"]
    assert any(case.height == case.width for case in report.cases)


def test_untraceable_student_is_one_clear_line(tmp_path):
    with pytest.raises(ExportError, match="the float32 onnx file cannot be made from the student: ") as caught:
        export_onnx(make_vae(1), BranchingStudent(), SMALL, tmp_path / "model.onnx", smooth_images(1, 32, 32))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_large_weights_lie_beside_the_file(tmp_path, monkeypatch, capfd):
    """With nothing on the console; and a file that fails parity stops no other."""
    path, half, eight = (tmp_path / name for name in ("model.onnx", "half.onnx", "eight.onnx"))
    files = {MAIN: path, Kind("onnx", "float16"): half, Kind("onnx", "int8"): eight}
    gentle = make_gentle_vae(), ConvStudent(), SMALL
    with monkeypatch.context() as patch:
        patch.setattr(tracing, "MAX_INLINE_BYTES", 0)
        assert len(list(export_files(*gentle, files, smooth_images(1, 32, 32), smooth_images(4, 32, 32)))) == 3
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "eight.onnx",  # keeps all weights inside: its tensors are smaller than a kilobyte
        *("half.onnx", "half.onnx.data", "model.onnx", "model.onnx.data"),
    ]
    images = smooth_images(1, 32, 32)
    beside = Translator.load(path)(images, "red-leather")
    assert np.abs(Translator.load(half)(images, "red-leather").astype(int) - beside).max() <= 1
    record_metrics(path, {"psnr": 30.0})
    assert_same_pixels(Translator.load(path)(images, "red-leather"), beside)

    # Export again with the weights inside. This student's edits are too strong for eight bits.
    rough = {MAIN: path, Kind("onnx", "int8"): eight}
    with pytest.raises(ExportError, match=r"the int8 onnx file comes within \d\d\.\d dB of float32 at 32x32"):
        list(
            export_files(
                *(make_vae(1), ConvStudent(4.0), SMALL, rough, smooth_images(1, 32, 32), smooth_images(4, 32, 32)),
                ExportSettings(opset=18),
            )
        )
    assert not path.with_name("model.onnx.data").exists()
    assert read_metadata(path)["opset"] == 18
    assert read_metadata(eight)["opset"] == 20, "the file that was there before stays"
    assert capfd.readouterr() == ("", "")


TORCH_KINDS = [Kind(format, precision) for format in ("torchscript", "pt2") for precision in ("float32", "float16")]


@pytest.fixture(scope="module")
def torch_files(tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, tuple[Path, ParityReport]]:
    folder = tmp_path_factory.mktemp("torch")
    files = {kind: folder / kind.file_name for kind in TORCH_KINDS}
    written = export_files(make_gentle_vae(), ConvStudent(), SMALL, files, smooth_images(2, 32, 32))
    return {kind: (files[kind], report) for kind, report in written}


@pytest.mark.parametrize("kind", TORCH_KINDS, ids=lambda kind: kind.file_name)
def test_torch_files_agree_and_describe_themselves(torch_files, kind):
    path, report = torch_files[kind]
    module = ExportModule(make_gentle_vae(), ConvStudent())
    image = torch.from_numpy(smooth_images(3, 24, 40)).permute(0, 3, 1, 2).float() / 127.5 - 1
    edit, strength = torch.tensor([2, 0, 1]), torch.tensor([1.0, 0.5, 0.0])
    with torch.no_grad():
        expected = module(image, edit, strength).numpy()
    actual = open_file(path, kind.format)(
        {"image": image.numpy(), "edit": edit.numpy(), "strength": strength.numpy()}
    )
    assert actual.dtype == np.float32
    assert np.abs(actual - expected).max() <= MAX_DIFFERENCE[kind.precision]
    assert np.array_equal(actual[2], image[2].numpy())
    assert not np.array_equal(actual[0], image[0].numpy())

    metadata = read_metadata(path)
    assert list(metadata["edits"].items()) == list(EDITS.items())
    assert metadata["precision"] == kind.precision
    assert metadata["parity_max_difference"] == report.max_difference
    assert metadata["training_size"] == 32 and metadata["schema_version"] == 1 and "opset" not in metadata


def test_float16_files_keep_their_norms_in_float32(torch_files):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, which cannot be fixed here
        script = torch.jit.load(torch_files[Kind("torchscript", "float16")][0])
    program = torch.export.load(torch_files[Kind("pt2", "float16")][0])
    for weights in (script.named_parameters(), program.named_parameters()):
        kinds = {(".norm." in name, weight.dtype) for name, weight in weights}
        assert kinds == {(True, torch.float32), (False, torch.float16)}


def test_settings_name_the_files():
    assert ExportSettings().kinds() == [MAIN]
    assert [kind.file_name for kind in ExportSettings(formats=("pt2",), precisions=("float16",)).kinds()] == [
        "model.onnx",
        "model-float16.pt2",
    ]
    every = ExportSettings(formats=("onnx", "torchscript", "pt2"), precisions=("float32", "float16", "int8")).kinds()
    assert len(every) == 7 and [kind.format for kind in every if kind.precision == "int8"] == ["onnx"]
    with pytest.raises(ValueError, match="int8 is for the format onnx alone"):
        ExportSettings(formats=("pt2",), precisions=("int8",))


def test_int8_needs_calibration_images(tmp_path):
    files = {Kind("onnx", "int8"): tmp_path / "model.onnx"}
    for images in (None, smooth_images(1, 32, 32)[:0]):
        with pytest.raises(ExportError, match="int8 needs"):
            list(export_files(make_vae(1), ConvStudent(), SMALL, files, smooth_images(1, 32, 32), images))
    assert list(tmp_path.iterdir()) == []


def test_a_checked_file_leaves_no_session_behind() -> None:
    """A full-size one holds gigabytes; waiting for the collector, they would stand beside the next file's."""
    gc.disable()
    try:
        run = open_file(Path(__file__).parents[2] / "examples" / "models" / "sofas.onnx", "onnx")
        ended = weakref.ref(run)
        del run
        assert ended() is None
    finally:
        gc.enable()
