"""The loop, on a tiny real teacher and a dataset that it painted."""

import io
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from agreement import assert_agrees
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from distill.scores import dds, sds_of_edits
from distill.settings import TrainingSettings
from distill.students import UNetStudent
from distill.training import checkpoints
from distill.training.draws import draw_edits, draw_image, draw_noise
from distill.training.schedules import cosine, linear_warmup
from distill.training.train import StepRecord, train
from synth.dataset.building import synthesize
from synth.dataset.image_dataset import ImageDataset
from synth.dataset.latents import encode
from synth.dataset.prompts import Template
from synth.errors import DatasetError, TrainingError
from synth.settings import SceneSettings
from synth.teacher.teacher import Teacher

EDITS = {"red-leather": {"color": "red", "material": "leather"}, "blue": {"color": "blue"}}

SCENES = SceneSettings(
    template="a {color} {material} sofa",
    slots={"color": ["red", "blue", "green"], "material": ["leather", "fabric"]},
    count=5,
    image_size=64,
    num_inference_steps=1,
    guidance_scale=1.5,
    batch_size=5,
)

SETTINGS = TrainingSettings(
    preset="short",
    steps=4,
    batch_size=3,
    learning_rate=1e-3,
    learning_rate_end=1e-4,
    learning_rate_steps=3,
    warmup_steps=2,
    guidance_end=3.0,
    guidance_warmup_steps=3,
    lambda_id_start=3.0,
    lambda_id_end=1.5,
    lambda_id_steps=3,
    ema_decay=0.0,
    checkpoint_every=2,
    autocast="off",
)


@pytest.fixture(scope="module")
def folder(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("painted")
    synthesize(tiny_teacher, SCENES, folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def dataset(folder: Path) -> ImageDataset:
    return ImageDataset(folder)


def run(teacher: Teacher, dataset: ImageDataset, run_dir: Path, **overrides: object) -> list[StepRecord]:
    settings = TrainingSettings(**{**SETTINGS.model_dump(), **overrides})
    return list(train(teacher, dataset, Template(SCENES), EDITS, settings, run_dir, progress=False))


def metrics_of(record: StepRecord) -> dict[str, float]:
    """Those that do not hang on the machine."""
    return {
        name: value
        for name, value in record.row().items()
        if name not in ("seconds", "images_per_second", "peak_memory_gib")
    }


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


def weights_of(checkpoint: Path) -> dict[str, Tensor]:
    files = sorted(checkpoint.rglob("*.safetensors"))
    return {f"{file.parent.name}/{name}": tensor for file in files for name, tensor in load_file(file).items()}


def test_records_follow_the_schedules(tiny_teacher: Teacher, dataset: ImageDataset, tmp_path: Path) -> None:
    records = run(tiny_teacher, dataset, tmp_path)
    assert [record.step for record in records] == [1, 2, 3, 4]
    for step, record in enumerate(records):
        assert record.guidance_scale == cosine(step, 1.0, 3.0, 3)
        assert record.lambda_id == cosine(step, 3.0, 1.5, 3)
        assert record.learning_rate == cosine(step, 1e-3, 1e-4, 3) * linear_warmup(step, 2)
    assert records[0].identity == 0 and records[0].dds > 0  # an untrained student proposes the input itself
    assert all(record.identity > 0 for record in records[1:])
    assert set(records[0].row()) == {
        *("step", "dds", "identity", "guidance_scale", "lambda_id", "learning_rate", "grad_norm"),
        *("seconds", "images_per_second", "peak_memory_gib"),
    }
    for record in records:
        assert record.images_per_second == pytest.approx(SETTINGS.batch_size / record.seconds)
        assert 0.1 < record.peak_memory_gib < 100


@pytest.mark.parametrize("edits_per_image", ["all", 1])
def test_the_gradient_is_the_mean_of_each_pairs_own(
    tiny_teacher: Teacher, dataset: ImageDataset, tmp_path: Path, edits_per_image: object
) -> None:
    """At step 0, z = z_hat and dz/dbias = 1, so the last layer's bias sees the mean delta score of each channel."""
    record = run(tiny_teacher, dataset, tmp_path, steps=1, guidance_start=3.0, edits_per_image=edits_per_image)[0]
    settings = SETTINGS.model_copy(update={"edits_per_image": edits_per_image})
    template, latents = Template(SCENES), encode(tiny_teacher, dataset, tmp_path, progress=False)
    scores = []
    for sample in range(SETTINGS.batch_size):
        image = draw_image(SETTINGS.seed, sample, len(dataset))
        t, eps = draw_noise(SETTINGS, 0, sample, latents.shape[1:])
        y_hat = tiny_teacher.encode_prompt([dataset.prompts[image]])
        for number in draw_edits(settings, 0, sample, len(EDITS)):
            edit = list(EDITS.values())[number]
            y = tiny_teacher.encode_prompt([template.edited(dataset.slots[image], edit)])
            z_hat = latents[image][None]
            scores.append(dds(tiny_teacher, z_hat, z_hat, y, y_hat, t[None], eps[None], 3.0))
    assert len(scores) == SETTINGS.batch_size * (len(EDITS) if edits_per_image == "all" else 1)
    want = torch.cat(scores).sum(dim=(0, 2, 3)) / torch.cat(scores).numel()  # (C,)
    # A mean over pixels whose signs cancel: it is as exact as the scores that were added, not as itself.
    scale = float(torch.cat(scores).abs().mean())
    assert_agrees(record.student.unet.conv_out.bias.grad, want, scale)
    assert record.dds == pytest.approx(float(torch.cat(scores).square().mean()), rel=1e-3)


@pytest.mark.parametrize(("edits_per_image", "micro_batch_size"), [("all", 1), ("all", 4), (1, 2), (1, 1)])
def test_micro_batches_train_the_same(
    tiny_teacher: Teacher, dataset: ImageDataset, tmp_path: Path, edits_per_image: object, micro_batch_size: int
) -> None:
    """They cut through images: each image's source branch runs once all the same."""
    common = {"steps": 2, "edits_per_image": edits_per_image}
    sizes: list[int] = []
    hook = tiny_teacher.network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    whole = run(tiny_teacher, dataset, tmp_path / "whole", **common)
    num_edits = 2 if edits_per_image == "all" else 1
    assert sizes == [3 * (2 + 2 * num_edits)] * 2
    parts = run(tiny_teacher, dataset, tmp_path / "parts", micro_batch_size=micro_batch_size, **common)
    hook.remove()
    assert sum(sizes[2:]) == sum(sizes[:2]) and len(sizes[2:]) == 2 * -(-3 * num_edits // micro_batch_size)
    for a, b in zip(whole, parts, strict=True):
        assert (b.dds, b.grad_norm) == pytest.approx((a.dds, a.grad_norm), rel=1e-3)
        assert b.identity == pytest.approx(a.identity, rel=1e-3)


class SmallCard:
    """A student's network that has memory for so many pairs at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.sizes: list[int] = []
        forward = UNetStudent.forward

        def limited(student: UNetStudent, latents: Tensor, edit: Tensor) -> Tensor:
            self.sizes.append(len(latents))
            if len(latents) > room:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return forward(student, latents, edit)

        monkeypatch.setattr(UNetStudent, "forward", limited)


def test_a_micro_batch_without_room_is_halved_once(
    tiny_teacher: Teacher,
    dataset: ImageDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = run(tiny_teacher, dataset, tmp_path / "whole", steps=2)
    monkeypatch.setattr(logging.getLogger("distill"), "propagate", True)
    card = SmallCard(monkeypatch, room=3)
    halved = run(tiny_teacher, dataset, tmp_path / "halved", steps=2)
    assert card.sizes == [6, 3, 3, 3, 3]
    # A set: where an earlier test set up the command's logs, a record is seen twice.
    (warning,) = {text for r in caplog.records if "out of memory" in (text := r.getMessage())}
    assert "out of memory with 6 pairs" in warning and "training.micro_batch_size=3" in warning
    for a, b in zip(whole, halved, strict=True):
        assert (b.dds, b.identity) == pytest.approx((a.dds, a.identity), rel=1e-3)
        assert b.grad_norm == pytest.approx(a.grad_norm, rel=1e-3)

    card = SmallCard(monkeypatch, room=2)
    with pytest.raises(TrainingError) as refused:
        run(tiny_teacher, dataset, tmp_path / "none", steps=2)
    assert str(refused.value) == (
        "out of memory with 3 pairs of an image and an edit at once: set training.micro_batch_size=1 or "
        "training.gradient_checkpointing=true or training.lora_rank=16"
    )
    assert checkpoints.latest(tmp_path / "none") is None


def test_memory_that_ends_elsewhere_is_one_line_too(
    tiny_teacher: Teacher, dataset: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.optim.Adam, "step", no_room)  # it allocates its moments in the first step
    overrides = {"micro_batch_size": 1, "gradient_checkpointing": True}
    with pytest.raises(TrainingError, match=r"^out of memory at step 1: set training.lora_rank=16 or .*=compact$"):
        run(tiny_teacher, dataset, tmp_path, **overrides)


def test_it_moves_the_student_and_nothing_else(tiny_teacher: Teacher, dataset: ImageDataset, tmp_path: Path) -> None:
    networks = (tiny_teacher.unet, tiny_teacher.vae, tiny_teacher.pipeline.text_encoder)
    before = [{name: weight.clone() for name, weight in network.state_dict().items()} for network in networks]
    after = {}
    settings = SETTINGS.model_copy(update={"steps": 3})
    for record in train(tiny_teacher, dataset, Template(SCENES), EDITS, settings, tmp_path, progress=False):
        after[record.step] = {name: weight.clone() for name, weight in record.student.named_parameters()}
    for network, state in zip(networks, before, strict=True):
        assert all(torch.equal(weight, state[name]) for name, weight in network.state_dict().items())
    # The zeroed layer is the only one that the first gradient reaches; after it, everything learns.
    theirs = {f"unet.{name}": weight for name, weight in tiny_teacher.unet.state_dict().items()}
    moved = {name for name, weight in after[1].items() if name in theirs and not torch.equal(weight, theirs[name])}
    assert moved == {"unet.conv_out.weight", "unet.conv_out.bias"}
    still = {name for name, weight in after[3].items() if torch.equal(weight, after[1][name])}
    assert "contexts" not in still and len(still) < len(after[3]) / 10


def test_the_student_moves_against_the_mean_delta_score(
    tiny_teacher: Teacher, dataset: ImageDataset, tmp_path: Path
) -> None:
    """Down the hill that DDS describes, measured with noise that the training did not see."""
    record = run(tiny_teacher, dataset, tmp_path, steps=48, guidance_start=3.0)[-1]
    template, z_hat = Template(SCENES), encode(tiny_teacher, dataset, tmp_path, progress=False)
    y_hat = tiny_teacher.encode_prompt(dataset.prompts)
    for number, edit in enumerate(EDITS.values()):
        y = tiny_teacher.encode_prompt([template.edited(slots, edit) for slots in dataset.slots])
        generator = torch.Generator().manual_seed(99)
        mean = torch.zeros_like(z_hat)
        for _ in range(16):
            t = torch.randint(50, 950, (len(dataset),), generator=generator)
            eps = torch.randn(z_hat.shape, generator=generator)
            mean += dds(tiny_teacher, z_hat, z_hat, y, y_hat, t, eps, 3.0) / 16
        with torch.no_grad():
            delta = record.student(z_hat, torch.full((len(dataset),), number))
        assert torch.cosine_similarity(delta.flatten(), -mean.flatten(), dim=0) > 0.7


@pytest.mark.parametrize(
    "kind", [{"student": "compact"}, {"lora_rank": 2}, {"gradient_checkpointing": True}, {"edits_per_image": 1}]
)
def test_every_kind_of_student_learns_and_resumes_to_the_bit(
    tiny_teacher: Teacher, dataset: ImageDataset, tmp_path: Path, kind: dict[str, object]
) -> None:
    straight = run(tiny_teacher, dataset, tmp_path / "straight", ema_decay=0.9, **kind)
    run(tiny_teacher, dataset, tmp_path / "stopped", ema_decay=0.9, steps=2, **kind)
    run(tiny_teacher, dataset, tmp_path / "stopped", ema_decay=0.9, **kind)
    assert straight[-1].identity > 0
    a, b = (checkpoints.latest(tmp_path / name) for name in ("straight", "stopped"))
    assert a is not None and b is not None
    ours, theirs = weights_of(a), weights_of(b)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    loaded = checkpoints.restore_student(a)
    assert not any("lora" in name for name in loaded.state_dict())
    z_hat, edit = torch.randn(2, 4, 8, 8), torch.tensor([0, 1])
    with torch.no_grad():
        assert_agrees(loaded(z_hat, edit), straight[-1].student.eval()(z_hat, edit))


def test_a_long_gradient_is_clipped_and_logged_as_it_was(
    tiny_teacher: Teacher, dataset: ImageDataset, tmp_path: Path
) -> None:
    free = run(tiny_teacher, dataset, tmp_path / "free", steps=1)[0]
    clipped = run(tiny_teacher, dataset, tmp_path / "clipped", steps=1, max_grad_norm=free.grad_norm / 4)[0]
    assert clipped.grad_norm == free.grad_norm
    ours, theirs = (record.student.unet.conv_out.bias.grad for record in (clipped, free))
    assert_agrees(ours, theirs / 4)


def test_another_score_replaces_the_papers(tiny_teacher: Teacher, dataset: ImageDataset, tmp_path: Path) -> None:
    common = (tiny_teacher, dataset, Template(SCENES), EDITS, SETTINGS, tmp_path, False)
    assert next(train(*common, score=sds_of_edits)).dds > 0.1  # eps^omega - eps of a random network is much
    for _ in zip(range(SETTINGS.checkpoint_every), train(*common, score=sds_of_edits), strict=False):
        pass
    with pytest.raises(TrainingError, match="its score is 'sds_of_edits', this one's is 'shared_source_dds'"):
        next(train(*common))


def test_a_strong_identity_weight_holds_it_back(tiny_teacher: Teacher, dataset: ImageDataset, tmp_path: Path) -> None:
    free, held = (
        run(tiny_teacher, dataset, tmp_path / str(weight), steps=15, lambda_id_start=weight, lambda_id_end=weight)
        for weight in (0.0, 30.0)
    )
    assert held[-1].identity < free[-1].identity / 2


@pytest.mark.parametrize("autocast", ["off", "bfloat16"])
def test_a_stopped_training_resumes_to_the_bit(
    tiny_teacher: Teacher, dataset: ImageDataset, tmp_path: Path, autocast: str
) -> None:
    straight = run(tiny_teacher, dataset, tmp_path / "straight", autocast=autocast, ema_decay=0.9)
    first = run(tiny_teacher, dataset, tmp_path / "stopped", autocast=autocast, ema_decay=0.9, steps=2)
    second = run(tiny_teacher, dataset, tmp_path / "stopped", autocast=autocast, ema_decay=0.9)
    assert [record.step for record in first + second] == [1, 2, 3, 4]
    for a, b in zip(straight, first + second, strict=True):
        assert metrics_of(a) == metrics_of(b)
    a, b = (checkpoints.latest(tmp_path / name) for name in ("straight", "stopped"))
    assert a is not None and b is not None and a.name == b.name == "step_000004"
    ours, theirs = weights_of(a), weights_of(b)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_moving_average_lags_behind_and_is_what_is_loaded(
    tiny_teacher: Teacher, dataset: ImageDataset, tmp_path: Path
) -> None:
    record = run(tiny_teacher, dataset, tmp_path, ema_decay=0.9)[-1]
    checkpoint = checkpoints.latest(tmp_path)
    assert checkpoint is not None
    weights, loaded = weights_of(checkpoint), checkpoints.restore_student(checkpoint)
    name = "unet.conv_out.weight"
    assert torch.equal(loaded.state_dict()[name], weights[f"averaged/{name}"])
    assert torch.equal(loaded.state_dict()[name], record.student.state_dict()[name])
    assert 0 < weights[f"averaged/{name}"].norm() < weights[f"student/{name}"].norm()


def test_checkpoints_are_whole_few_and_without_pickle(
    tiny_teacher: Teacher, dataset: ImageDataset, tmp_path: Path
) -> None:
    killed = tmp_path / "checkpoints" / ".step_000099.0123456789abcdef.part"
    killed.mkdir(parents=True)
    assert checkpoints.latest(tmp_path) is None
    run(tiny_teacher, dataset, tmp_path, steps=5, keep_checkpoints=2)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step_000004", "step_000005"]  # every second step, and the last
    files = [path for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    finished = run(tiny_teacher, dataset, tmp_path, steps=5)
    assert finished == []  # nothing left to do; the student is on disk
    checkpoint = checkpoints.latest(tmp_path)
    assert checkpoint is not None
    assert list(checkpoints.restore_student(checkpoint).edits) == list(EDITS)


def test_a_checkpoint_of_another_training_is_refused(
    tiny_teacher: Teacher, dataset: ImageDataset, tmp_path: Path
) -> None:
    run(tiny_teacher, dataset, tmp_path, steps=2)
    with pytest.raises(TrainingError, match=r"its guidance_end is 3.0, this one's is 5.0; restore the setting"):
        run(tiny_teacher, dataset, tmp_path, guidance_end=5.0)
    swapped = dict(reversed(EDITS.items()))  # the same edits under other numbers
    with pytest.raises(TrainingError, match="its edits is"):
        next(train(tiny_teacher, dataset, Template(SCENES), swapped, SETTINGS, tmp_path, progress=False))


def test_checkpoints_from_before_edits_per_image_go_on(
    tiny_teacher: Teacher, dataset: ImageDataset, tmp_path: Path
) -> None:
    run(tiny_teacher, dataset, tmp_path, steps=2)
    checkpoint = checkpoints.latest(tmp_path)
    assert checkpoint is not None and "edits_per_image" not in (checkpoint / "state.json").read_text()
    with pytest.raises(TrainingError, match=r"its edits_per_image is None, this one's is 1"):
        run(tiny_teacher, dataset, tmp_path, edits_per_image=1)
    assert [record.step for record in run(tiny_teacher, dataset, tmp_path)] == [3, 4]


def test_what_cannot_be_trained_is_refused_in_one_line(
    tiny_teacher: Teacher, dataset: ImageDataset, folder: Path, tmp_path: Path
) -> None:
    def start(dataset: ImageDataset, edits: dict[str, dict[str, str]], scenes: SceneSettings = SCENES) -> None:
        next(train(tiny_teacher, dataset, Template(scenes), edits, SETTINGS, tmp_path / "run", progress=False))

    with pytest.raises(TrainingError, match=r"the edit 'velvet' does not fit the template: .*'colour'.*'color'"):
        start(dataset, {"velvet": {"colour": "red"}})
    with pytest.raises(TrainingError, match="no edits to train"):
        start(dataset, {})
    other = SCENES.model_copy(update={"template": "a {size} sofa", "slots": {"size": ["big"]}})
    with pytest.raises(TrainingError, match="no slot 'size'"):
        start(dataset, EDITS, other)

    shard = folder / "data" / "train-00000.parquet"
    empty = tmp_path / "empty" / "data"
    empty.mkdir(parents=True)
    pq.write_table(pq.read_table(shard).slice(0, 0), empty / shard.name)
    with pytest.raises(TrainingError, match="the dataset is empty"):
        start(ImageDataset(empty.parent), EDITS)

    mixed = tmp_path / "mixed" / "data"
    mixed.mkdir(parents=True)
    table = pq.read_table(shard)
    images = table["image"].to_pylist()
    images[3]["bytes"] = png(32, 64)
    column = pa.array(images, table.schema.field("image").type)
    pq.write_table(table.set_column(table.schema.get_field_index("image"), "image", column), mixed / shard.name)
    with pytest.raises(DatasetError, match="image 3 is 32 x 64 but image 0 64 x 64: all must have one size"):
        start(ImageDataset(mixed.parent), EDITS)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_loss_that_is_not_finite_stops_the_training(
    tiny_teacher: Teacher, dataset: ImageDataset, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=r"is (nan|inf) at step \d: lower training.learning_rate"):
        run(tiny_teacher, dataset, tmp_path, learning_rate=1e30, checkpoint_every=100)
    assert checkpoints.latest(tmp_path) is None
