"""From a student to a pixel network: the pairs on disk, the draws, the losses, the loop and its resumption."""

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agreement import assert_agrees, assert_same_pixels
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

import distill.compression.pairs
from distill import pixel
from distill.composition import translated
from distill.compression.augmentation import draw_augmentation, draw_crop
from distill.compression.losses import (
    FeatureLoss,
    change_loss,
    deviation,
    draw_window,
    gradient_loss,
    local_variogram,
    pixel_loss,
    variogram_loss,
)
from distill.compression.pairs import PixelPairs, draw_edits, make_pairs
from distill.compression.train import PixelRecord, train
from distill.settings import PixelSettings, TrainingSettings
from distill.students import Student, new_student
from distill.training import checkpoints
from synth.dataset.building import synthesize
from synth.dataset.image_dataset import ImageDataset
from synth.errors import TrainingError
from synth.psnr import psnr_from_mse
from synth.settings import SceneSettings
from synth.teacher.teacher import Teacher

EDITS = {"red": "a red sofa", "blue": "a blue sofa", "green": "a green sofa"}
TINY = PixelSettings(widths=(8, 12), steps=6, batch_size=4, checkpoint_every=2, learning_rate=1e-3)


@pytest.fixture(scope="module")
def dataset(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    folder = tmp_path_factory.mktemp("painted")
    scenes = SceneSettings(
        template="a {color} sofa",
        slots={"color": ["red", "blue", "green", "grey", "white"]},
        count=5,
        image_size=64,
        num_inference_steps=1,
        guidance_scale=1.5,
        batch_size=5,
    )
    synthesize(tiny_teacher, scenes, folder, progress=False)
    return ImageDataset(folder)


@pytest.fixture(scope="module")
def student(tiny_teacher: Teacher) -> Student:
    """One that changes what it is shown, each edit in its own way."""
    made = new_student(tiny_teacher, EDITS, TrainingSettings(preset="short", student="compact"))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for weight in made.unet.last.parameters():
            nn.init.normal_(weight, std=0.5)
    return made.eval()


def pairs_of(
    teacher: Teacher, student: Student, dataset: ImageDataset, place: Path, identity: str = "one", **changed: Any
) -> PixelPairs:
    settings = TINY.model_copy(update=changed)
    return make_pairs(teacher, student, identity, dataset, settings, place / "latents", place / "pairs")


def test_pairs_are_what_the_student_makes(
    tiny_teacher: Teacher, student: Student, dataset: ImageDataset, tmp_path: Path
) -> None:
    pairs = pairs_of(tiny_teacher, student, dataset, tmp_path)
    assert len(pairs) == 2 * len(dataset) and pairs.image_size == (64, 64)
    for number in range(len(pairs)):
        image, made, edit = pairs.pair(number)
        own = dataset.image(number // 2)
        assert np.array_equal(image, own)
        assert edit == draw_edits(TINY, number // 2, len(EDITS))[number % 2]
        assert_same_pixels(made, translated(tiny_teacher, student, own[None], edit)[0])
        assert not np.array_equal(made, own)


def test_all_edits_of_each_image(
    tiny_teacher: Teacher, student: Student, dataset: ImageDataset, tmp_path: Path
) -> None:
    pairs = pairs_of(tiny_teacher, student, dataset, tmp_path, edits_per_image="all")
    assert [pairs.pair(number)[2] for number in range(len(pairs))] == [0, 1, 2] * len(dataset)


def test_edits_of_an_image_are_drawn_by_seed_and_place() -> None:
    drawn = [draw_edits(TINY, index, 6) for index in range(600)]
    assert all(len(set(own)) == 2 and own == sorted(own) for own in drawn)
    share = np.bincount(np.ravel(drawn)) / 1200
    assert share.min() > 1 / 6 - 0.05 and share.max() < 1 / 6 + 0.05
    assert draw_edits(TINY, 599, 6) == drawn[599]
    assert [draw_edits(TINY.model_copy(update={"seed": 1}), index, 6) for index in range(600)] != drawn
    assert draw_edits(TINY, 0, 1) == [0], "a recipe with fewer edits than asked for has all of them made"


def test_made_pairs_are_kept_and_a_lost_shard_is_remade(
    tiny_teacher: Teacher, student: Student, dataset: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill.compression.pairs, "SHARD_SIZE", 2)
    first = pairs_of(tiny_teacher, student, dataset, tmp_path)
    (place,) = (tmp_path / "pairs").iterdir()
    shards = sorted(place.iterdir())
    assert [shard.name for shard in shards] == ["00000.npy", "00001.npy", "00002.npy"]
    contents = [shard.read_bytes() for shard in shards]
    times = [shard.stat().st_mtime_ns for shard in shards]
    shards[1].unlink()
    (place / ".00001.npy.0123456789abcdef.part").write_bytes(b"half")
    again = pairs_of(tiny_teacher, student, dataset, tmp_path)
    assert [shard.read_bytes() for shard in shards] == contents
    assert [shard.stat().st_mtime_ns == time for shard, time in zip(shards, times, strict=True)] == [
        True,
        False,
        True,
    ]
    assert sorted(place.iterdir()) == shards
    assert all(np.array_equal(first.pair(n)[1], again.pair(n)[1]) for n in range(len(first)))


def test_a_killed_work_goes_on_after_its_last_shard(
    tiny_teacher: Teacher, student: Student, dataset: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill.compression.pairs, "SHARD_SIZE", 2)

    class DiesAfter:
        def __init__(self, num_images: int) -> None:
            self.left = num_images

        def update(self, n: int = 1) -> None:
            self.left -= n
            if self.left < 0:
                raise KeyboardInterrupt

    arguments = (tiny_teacher, student, "one", dataset, TINY, tmp_path / "latents", tmp_path / "pairs")
    with pytest.raises(KeyboardInterrupt):
        make_pairs(*arguments, DiesAfter(3))
    (place,) = (tmp_path / "pairs").iterdir()
    assert [path.name for path in place.iterdir()] == ["00000.npy"]
    assert len(make_pairs(*arguments, DiesAfter(5))) == 10, "images that are on disk count too"


@pytest.mark.parametrize("changed", [{"seed": 1}, {"edits_per_image": 1}, {"identity": "another"}])
def test_pairs_of_something_else_are_never_read(
    tiny_teacher: Teacher, student: Student, dataset: ImageDataset, tmp_path: Path, changed: dict[str, Any]
) -> None:
    pairs_of(tiny_teacher, student, dataset, tmp_path)
    (before,) = (tmp_path / "pairs").iterdir()
    (tmp_path / "pairs" / "my notes").mkdir()
    pairs_of(tiny_teacher, student, dataset, tmp_path, **changed)
    names = {path.name for path in (tmp_path / "pairs").iterdir()}
    assert len(names) == 2 and "my notes" in names and before.name not in names, "only its own former ones go"


def test_a_damaged_shard_is_named(
    tiny_teacher: Teacher, student: Student, dataset: ImageDataset, tmp_path: Path
) -> None:
    pairs_of(tiny_teacher, student, dataset, tmp_path)
    (shard,) = tmp_path.glob("pairs/*/*.npy")
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(TrainingError, match=r"00000.npy.*delete .*00000.npy, and it is made again"):
        pairs_of(tiny_teacher, student, dataset, tmp_path)


def test_augmentation_treats_both_sides_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    before = torch.rand(3, 20, 30, generator=generator) - 0.5
    both = torch.stack([before, before + 0.1])
    seen = set()
    for position in range(30):
        drawn = draw_augmentation(0, position)
        assert drawn == draw_augmentation(0, position) != draw_augmentation(1, position)
        x, y = drawn.apply(both, 15, 22)
        assert x.shape == (3, 15, 22)
        assert torch.allclose(y - x, torch.full_like(x, 0.1 * drawn.gain), atol=1e-6)
        assert 0.9 <= drawn.gain <= 1.1 and abs(drawn.offset) <= 0.05
        top, left = round(drawn.top * 5), round(drawn.left * 8)
        crop = before[:, top : top + 15, left : left + 22]
        expected = (crop.flip(-1) if drawn.is_mirrored else crop) * drawn.gain + drawn.offset
        assert torch.allclose(x, expected, atol=1e-6)
        seen |= {drawn.is_mirrored, ("top", top), ("left", left)}
    assert {True, False, ("top", 0), ("top", 5), ("left", 0), ("left", 8)} <= seen


def test_crops_are_whole_or_of_any_size() -> None:
    sizes = [draw_crop(0, step, 64, 48) for step in range(200)]
    assert 70 < sizes.count((64, 48)) < 130
    assert all(48 <= height <= 64 and 36 <= width <= 48 for height, width in sizes)
    assert any(height % 4 for height, _ in sizes), "some need padding"


def test_losses_have_their_values() -> None:
    x = torch.zeros(1, 3, 4, 4)
    y = torch.zeros(1, 3, 4, 4)
    y[..., 2:] = 0.5  # an edge: a quarter of the values lie at it
    assert float(pixel_loss(x, y)) == pytest.approx(0.25)
    assert float(gradient_loss(x, y)) == pytest.approx(0.5 / 3), "one of three differences along a row, none down"
    assert float(gradient_loss(x + 1, x)) == 0
    image = y.clone()
    image[..., 0] = 0.5  # the edit changes the first column by 0.5, in y; x is right there, and wrong in the last two
    assert float(change_loss(x, y, image)) == 0
    image[..., 3] = -0.5  # and the last one by 1, where x is off by 0.5: two thirds of all change
    assert float(change_loss(x, y, image)) == pytest.approx(0.5 * 2 / 3)
    assert float(change_loss(x, y, y)) == 0, "nothing was to change"


def test_features_are_those_of_the_teachers_encoder(tiny_teacher: Teacher) -> None:
    compare = FeatureLoss(tiny_teacher)
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1 for _ in range(2))
    assert [float(distance) for distance in compare(x, x)] == [0, 0]
    encoder = tiny_teacher.vae.encoder
    f_x, f_y, distances, textures = x, y, [], []
    for stage in (encoder.conv_in, *encoder.down_blocks[:2]):
        f_x, f_y = stage(f_x), stage(f_y)
        size = f_y.abs().mean()
        distances.append((f_x - f_y).abs().mean() / size)
        textures.append((deviation(f_x / size) - deviation(f_y / size)).abs().mean())
    assert_agrees(compare(x, y)[0], torch.stack(distances).mean())
    assert_agrees(compare(x, y)[1], torch.stack(textures).mean())
    for part in range(2):
        x = x.detach().requires_grad_()
        y.requires_grad_()
        compare(x, y)[part].backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None and x.grad.abs().sum() > 0 and y.grad is None


def test_a_texture_is_as_strong_wherever_it_lies() -> None:
    stripes = torch.tensor([1.0, -1.0]).repeat(8).expand(1, 1, 8, 16)
    assert deviation(stripes).shape == (1, 1, 2, 4)
    assert_agrees(deviation(stripes), torch.ones(1, 1, 2, 4))
    assert_agrees(deviation(-stripes + 3), deviation(stripes))  # moved by one column, and brighter
    assert float(deviation(torch.zeros(1, 1, 8, 8)).max()) == pytest.approx(0.001**0.5)  # bounds the root's gradient
    ends = torch.cat([stripes, 5 * stripes[..., :2]], dim=-1)[:, :, :1]  # a row of cells cut short
    assert_agrees(deviation(ends), torch.tensor([1.0, 1, 1, 1, 5])[None, None, None])
    assert deviation(torch.ones(1, 1, 1, 1)).shape == (1, 1, 1, 1)


def stripes_of(period: int, side: int = 32) -> torch.Tensor:
    """Vertical stripes of -0.5 and 0.5, (1, 3, side, side)."""
    columns = torch.arange(side) % period < period // 2
    return (columns.float() - 0.5).expand(1, 3, side, side)


def test_a_variogram_knows_how_coarse_a_texture_is() -> None:
    stripes = stripes_of(4)
    for lag, wanted in {1: 0.5, 2: 1.0, 3: 0.5, 4: 0.0}.items():  # half, all, half, none of the pixels differ, by 1
        values = local_variogram(stripes, lag)
        assert values.shape == (1, 2, 3, 8, 8)
        # The last cells see the repeated border.
        assert (values[:, 0, :, :, :-2] == wanted).all()
        assert (values[:, 1] == 0).all(), "smooth along the stripes"
        assert_agrees(local_variogram(stripes.mT, lag), values.flip(1).mT)
        assert_agrees(local_variogram(stripes + 3, lag), values)
    assert local_variogram(torch.ones(1, 3, 1, 1), 4).shape == (1, 2, 3, 1, 1)
    assert local_variogram(torch.ones(1, 3, 17, 2), 1).shape == (1, 2, 3, 5, 1)


def test_textures_may_move_and_not_fade_or_become_finer() -> None:
    image, wanted = torch.full((1, 3, 32, 32), -1.0), stripes_of(8)
    moved = wanted.roll(2, -1)
    assert float(pixel_loss(moved, wanted)) == float(pixel_loss(0 * wanted, wanted)), "where L1 sees no difference"
    flat, faint = (float(variogram_loss(strength * wanted, wanted, image)) for strength in (0, 0.5))
    assert (
        float(variogram_loss(wanted, wanted, image)) == 0 and float(variogram_loss(moved, wanted, image)) < 0.1 * flat
    )
    assert faint == pytest.approx(flat / 2) and flat > 0.5
    checkers = stripes_of(2) * stripes_of(2).mT
    assert float(variogram_loss(checkers, wanted, image)) > flat / 2, "as much contrast between neighbours, but finer"
    assert float(variogram_loss(0 * wanted, wanted, wanted)) == 0, "nothing was to change"
    x = (0.5 * wanted).requires_grad_()
    variogram_loss(x, wanted, image).backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None and bool(x.grad.isfinite().all())
    better = (x - 10 * x.grad).detach()
    assert float(variogram_loss(better, wanted, image)) < faint, "its gradient makes a faint texture stronger"


def test_windows_lie_where_the_edit_is() -> None:
    change = torch.zeros(40, 60)
    change[30:34, 50:55] = 1
    for position in range(20):
        rows, columns = draw_window(0, position, change)
        assert (rows.stop - rows.start, columns.stop - columns.start) == (20, 30)
        assert rows.start >= 0 and rows.stop <= 40 and columns.start >= 0 and columns.stop <= 60
        assert change[rows, columns].sum() > 0
    anywhere = {draw_window(0, position, torch.zeros(40, 60))[0].start for position in range(20)}
    assert len(anywhere) > 5


def painted_pairs(num: int, side: int = 32) -> PixelPairs:
    """Rooms with a square: edit 0 turns it red, edit 1 leaves all as it is."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(num):
        image: NDArray[np.uint8] = np.full((side, side, 3), rng.integers(150, 250, 3), np.uint8)
        top, left = rng.integers(2, side - 14, 2)
        image[top : top + 12, left : left + 12] = rng.integers(0, 60, 3)
        red = image.copy()
        red[top : top + 12, left : left + 12] = (220, 20, 20)
        rows.append(np.stack([image, red, image]))
    return PixelPairs([np.stack(rows)], [[0, 1]] * num)


def run(
    teacher: Teacher, pairs: PixelPairs, run_dir: Path, killed_at: int | None = None, **changed: Any
) -> list[PixelRecord]:
    """Train, to the end or to a step at which the process is killed."""
    settings = TINY.model_copy(update=changed)
    edits = dict(islice(EDITS.items(), 2))
    records = train(teacher, pairs, edits, settings, {"data": "squares"}, run_dir, nullcontext)
    return list(islice(records, killed_at))


def test_it_learns_to_edit_squares_it_never_saw(tiny_teacher: Teacher, tmp_path: Path) -> None:
    shown, unseen = painted_pairs(48), painted_pairs(60)
    last = run(
        tiny_teacher,
        shown,
        tmp_path,
        steps=292,
        variogram_weight=0.0,  # a square has no texture
        batch_size=8,
        learning_rate=5e-3,
        ema_decay=0.9,
        checkpoint_every=300,
    )[-1]

    def psnr(edit: int, of: Any) -> float:
        errors = []
        for number in range(2 * 48 + edit, len(unseen), 2):
            image, made, _ = unseen.pair(number)
            errors.append(float(np.square(of(image).astype(float) - made).mean()))
        return float(psnr_from_mse(float(np.mean(errors)), peak=255.0))

    by_network = {
        edit: psnr(edit, lambda image, e=edit: pixel.translated(last.network, image[None], e)[0]) for edit in (0, 1)
    }
    assert by_network[0] > psnr(0, lambda image: image) + 8, "the square turns red"
    assert by_network[1] > 30, "the other edit leaves the image alone"


def weights_of(checkpoint: Path) -> dict[str, Tensor]:
    files = sorted(checkpoint.rglob("*.safetensors"))
    return {f"{file.parent.name}/{name}": tensor for file in files for name, tensor in load_file(file).items()}


def test_a_killed_training_resumes_to_the_bit(tiny_teacher: Teacher, tmp_path: Path) -> None:
    pairs = painted_pairs(6)
    straight = run(tiny_teacher, pairs, tmp_path / "straight")
    first = run(tiny_teacher, pairs, tmp_path / "killed", killed_at=3)  # the checkpoint is of step 2
    second = run(tiny_teacher, pairs, tmp_path / "killed")
    assert [record.step for record in first + second] == [1, 2, 3, 3, 4, 5, 6]
    for ours, theirs in zip(straight[2:], second, strict=True):
        assert {**ours.row(), "seconds": 0} == {**theirs.row(), "seconds": 0}
    a, b = (checkpoints.latest(tmp_path / name) for name in ("straight", "killed"))
    assert a is not None and b is not None and a.name == b.name == "step_000006"
    ours, theirs = weights_of(a), weights_of(b)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert "averaged/first.norm.running_mean" in ours, "the average has statistics of its own"
    assert sorted(path.name for path in a.parent.iterdir()) == ["step_000004", "step_000006"]
    assert run(tiny_teacher, pairs, tmp_path / "killed") == [], "nothing is left to do"


def test_records_follow_the_schedule(tiny_teacher: Teacher, tmp_path: Path) -> None:
    records = run(tiny_teacher, painted_pairs(4), tmp_path, feature_weight=0.0, texture_weight=0.0)
    rates = [record.learning_rate for record in records]
    wanted = [1e-3 * (step + 1) / 50 * (1 + np.cos(np.pi * step / 6)) / 2 for step in range(6)]
    assert rates == pytest.approx(wanted)
    assert all(record.features == record.textures == 0 for record in records)
    assert all(record.pixels > 0 and record.gradients > 0 for record in records)
    losses = {"pixels", "change", "gradients", "features", "textures", "variogram"}
    assert set(records[0].row()) == {"step", *losses, "learning_rate", "seconds"}


def test_the_last_seventh_sharpens_textures(tiny_teacher: Teacher, tmp_path: Path) -> None:
    records = run(tiny_teacher, painted_pairs(4), tmp_path / "sharp", steps=15)
    assert [record.variogram > 0 for record in records] == [False] * 13 + [True] * 2
    assert records[12].learning_rate == pytest.approx(1e-3 * 13 / 50 * (1 + np.cos(np.pi * 12 / 13)) / 2)
    assert records[13].learning_rate == pytest.approx(1e-3 / 4 / 50), "a quarter, and a warm-up of its own"
    plain = run(tiny_teacher, painted_pairs(4), tmp_path / "plain", steps=15, variogram_weight=0.0)
    assert [record.pixels for record in plain[:14]] == [record.pixels for record in records[:14]]
    assert plain[14].pixels != records[14].pixels and plain[14].variogram == 0
    assert not any(record.variogram for record in run(tiny_teacher, painted_pairs(4), tmp_path / "short"))


def test_other_settings_do_not_resume(tiny_teacher: Teacher, tmp_path: Path) -> None:
    pairs = painted_pairs(4)
    run(tiny_teacher, pairs, tmp_path)
    with pytest.raises(TrainingError, match=r"its gradient_weight is 1.0, this one's is 2.0"):
        run(tiny_teacher, pairs, tmp_path, gradient_weight=2.0)
    assert run(tiny_teacher, pairs, tmp_path, sample_every=3) == [], "how often it is looked at changes no weight"


def test_too_little_memory_is_one_line(
    tiny_teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.optim.Adam, "step", no_room)
    with pytest.raises(TrainingError) as refused:
        run(tiny_teacher, painted_pairs(8), tmp_path, batch_size=8)
    assert str(refused.value) == (
        "out of memory at step 1 of the pixel network: set pixel.batch_size=4 or pixel.feature_weight=0 with "
        "pixel.texture_weight=0"
    )


def test_a_loss_that_is_not_finite_stops_it(tiny_teacher: Teacher, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"is (nan|inf) at step \d of the pixel network: lower pixel.learning_rate"
    ):
        run(tiny_teacher, painted_pairs(4), tmp_path, learning_rate=1e30, checkpoint_every=100)
    assert checkpoints.latest(tmp_path) is None


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """To the bit means with the same number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("family", ["xl", "3"])
def test_any_family_and_a_compact_student_will_do(
    family: str, dataset: ImageDataset, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Latents with a shift, other numbers of channels, no U-Net: the pairs are still what the student makes."""
    teacher: Teacher = request.getfixturevalue(f"tiny_{family}_teacher")
    settings = TrainingSettings(preset="short", student="compact")
    made = new_student(teacher, EDITS, settings).eval()
    for weight in made.unet.last.parameters():
        nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(0))
    pairs = pairs_of(teacher, made, dataset, tmp_path)
    image, answer, edit = pairs.pair(0)
    assert_same_pixels(answer, translated(teacher, made, image[None].copy(), edit)[0])
    records = list(train(teacher, pairs, EDITS, TINY, {"data": dataset.fingerprint}, tmp_path / "run", nullcontext))
    assert [record.step for record in records] == [1, 2, 3, 4, 5, 6] and records[-1].features > 0
