"""A small image's change on a large one: its edges are the photograph's, and what it leaves alone keeps its bits."""

import numpy as np
import pytest
from peoples_images import rgb_profile
from PIL import Image

from synth.images.enlargement import EPS, FLAT, apply_fit, fit_change
from synth.images.reader import SourceImage

SIDE, SCALE = 32, 9
LARGE = SIDE * SCALE


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def two_colors(edge: int, left: tuple[int, int, int], right: tuple[int, int, int]) -> np.ndarray:
    """uint8 (LARGE, LARGE, 3), of one color before the column `edge` and of another after it."""
    image = np.empty((LARGE, LARGE, 3), np.uint8)
    image[:, :edge], image[:, edge:] = left, right
    return image


def small_change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """What a perfect network would add to the small image, float32 (3, SIDE, SIDE)."""
    small = [SourceImage(image).reduced(SIDE, SIDE).astype(np.float32) for image in (before, after)]
    return ((small[1] - small[0]) / np.float32(127.5)).transpose(2, 0, 1).copy()


def plainly(photo: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The change enlarged by a cubic, without a look at the photograph."""
    size = photo.shape[1::-1]
    planes = [np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC)) for plane in change]
    return np.clip(np.rint(np.dstack(planes) * 127.5 + photo), 0, 255)


@pytest.mark.parametrize("edge", [LARGE // 2 + offset for offset in (0, 1, 3, 5, 8)])
def test_an_edge_stays_where_the_photograph_has_it(edge):
    """A grey thing before a bright wall turns red, and the network's pixel at its edge is half of each."""
    before = two_colors(edge, (110, 110, 115), (235, 230, 225))
    after = two_colors(edge, (200, 40, 30), (235, 230, 225))
    change = small_change(before, after)
    error = np.abs(SourceImage(before).with_change(change).pixels.astype(int) - after)
    plain = np.abs(plainly(before, change) - after)
    near = slice(edge - SCALE, edge + SCALE)
    assert error[:, near].mean() < plain[:, near].mean() / 1.9
    assert error[:, near].max() < plain[:, near].max() / 2


def test_detail_goes_with_what_it_belonged_to():
    """Stripes of two small pixels under what becomes one color."""
    before = np.repeat(np.repeat([[[90, 90, 90], [210, 210, 210]]], SIDE // 4, axis=0).reshape(1, -1, 3), LARGE, 0)
    before = np.repeat(before, LARGE // before.shape[1], axis=1).astype(np.uint8)
    after = np.full_like(before, (150, 30, 160))
    change = small_change(before, after)
    inner = slice(3 * SCALE, -3 * SCALE)
    edited = SourceImage(before).with_change(change).pixels[inner, inner].astype(float)
    assert edited.std(axis=(0, 1)).max() < plainly(before, change)[inner, inner].std(axis=(0, 1)).max() / 1.5


def test_a_new_shape_on_a_plain_wall_stays_as_drawn():
    wall = np.full((LARGE, LARGE, 3), 200, np.uint8)
    change = np.zeros((3, SIDE, SIDE), np.float32)
    change[:, 8:20, 10:22] = -np.float32([0.2, 1.0, 0.6])[:, None, None]
    edited = SourceImage(wall).with_change(change).pixels
    planes = [
        np.asarray(Image.fromarray(plane).resize((LARGE, LARGE), Image.Resampling.BILINEAR)) for plane in change
    ]
    assert np.abs(edited - np.clip(np.rint(np.dstack(planes) * 127.5 + wall), 0, 255)).max() <= 1


def test_what_it_leaves_alone_stays_equal_bit_for_bit():
    photo = SourceImage(noise(LARGE, LARGE + 7, 3))
    change = np.zeros((3, SIDE, SIDE), np.float32)
    assert np.array_equal(photo.with_change(change).pixels, photo.pixels)
    change[:, 10:14, 12:18] = 0.7
    edited = photo.with_change(change).pixels
    touched = np.zeros((SIDE, SIDE), bool)
    touched[7:17, 9:21] = True  # two windows and a blend further than the change
    touched = np.asarray(Image.fromarray(touched).resize(photo.size, Image.Resampling.NEAREST))
    assert np.array_equal(edited[~touched], photo.pixels[~touched])
    assert (edited[touched] != photo.pixels[touched]).any(axis=-1).mean() > 0.3


def test_at_the_changes_own_size_nothing_is_fitted():
    photo, change = noise(40, 60, 3), np.random.default_rng(1).normal(0, 0.4, (3, 40, 60)).astype(np.float32)
    expected = np.clip(np.rint(change.transpose(1, 2, 0) * np.float32(127.5) + photo), 0, 255)
    assert np.array_equal(SourceImage(photo).with_change(change).pixels, expected)


def test_an_image_that_is_smaller_takes_the_change_reduced():
    for shape in ((40, 60), (40, 300), (200, 60)):  # in one side, too
        photo, change = noise(*shape, 3), np.random.default_rng(1).normal(0, 0.4, (3, 80, 120)).astype(np.float32)
        edited = SourceImage(photo).with_change(change).pixels
        assert np.abs(edited - plainly(photo, change)).max() <= 1


@pytest.mark.parametrize(("strip", "columns"), [(500, 2**16), (700, 41), (1, 1)])
def test_tiles_meet_to_the_bit(monkeypatch, strip, columns):
    photo = SourceImage(noise(90, 130, 3))
    change = np.random.default_rng(1).normal(0, 0.4, (3, 12, 16)).astype(np.float32)
    whole = photo.with_change(change).pixels
    monkeypatch.setattr("synth.images.reader.STRIP_PIXELS", strip)
    monkeypatch.setattr("synth.images.reader.MAX_COLUMNS", columns)
    assert np.array_equal(photo.with_change(change).pixels, whole)


def test_the_fit_is_that_of_its_equations():
    """Window by window, in double precision."""
    h, w = 6, 5
    image, change = noise(h, w, 3), np.random.default_rng(1).normal(0, 0.4, (3, h, w)).astype(np.float32)
    color, p = image / 127.5 - 1, change.transpose(1, 2, 0).astype(float)  # (h, w, 3)

    def window(y: int, x: int) -> tuple[slice, slice]:
        return slice(max(0, y - 1), y + 2), slice(max(0, x - 1), x + 2)

    slopes, offsets, variance = np.empty((h, w, 3, 3)), np.empty((h, w, 3)), np.empty((h, w))
    for y, x in np.ndindex(h, w):
        colors, values = color[window(y, x)].reshape(-1, 3), p[window(y, x)].reshape(-1, 3)
        sigma = np.cov(colors.T, bias=True)
        covariance = (colors.T @ values) / len(colors) - np.outer(colors.mean(axis=0), values.mean(axis=0))
        slopes[y, x] = np.linalg.solve(sigma + EPS * np.eye(3), covariance).T  # (of the change, of the color)
        offsets[y, x] = values.mean(axis=0) - slopes[y, x] @ colors.mean(axis=0)
        variance[y, x] = np.trace(sigma)
    functions = fit_change(change, image)
    for y, x in np.ndindex(h, w):
        a, b = (values[window(y, x)].mean(axis=(0, 1)) for values in (slopes, offsets))
        b = b + FLAT / (FLAT + variance[window(y, x)].mean()) * (p[y, x] - a @ color[y, x] - b)
        np.testing.assert_allclose(functions[:, :3, y, x], a, atol=1e-4)
        np.testing.assert_allclose(functions[:, 3, y, x], (b - a.sum(axis=1)) * 127.5, atol=0.02)
    levels = apply_fit(functions, image, slice(0, h), slice(0, w), (h, w))  # of equal sizes: nothing is blended
    expected = (functions[:, :3] * image.transpose(2, 0, 1)).sum(axis=1) + functions[:, 3]
    np.testing.assert_allclose(levels.transpose(2, 0, 1), expected, atol=1e-3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_small_and_absurd_changes_stay_numbers(shape):
    photo = np.full((30, 40, 3), 100, np.uint8)
    for value, level in ((3e38, 255), (-3e38, 0), (0.1, 113)):
        change = np.full((3, *shape), value, np.float32)
        assert np.unique(SourceImage(photo).with_change(change).pixels).tolist() == [level]


def test_another_rgb_space_is_looked_at_in_srgb():
    before = two_colors(150, (110, 100, 90), (180, 170, 160))
    photo = SourceImage(before, icc_profile=rgb_profile("Adobe RGB"))
    seen = SourceImage(photo.srgb())
    change = np.zeros((3, SIDE, SIDE), np.float32)
    change[0, :, :17] = 0.4
    edited = photo.with_change(change)
    assert np.abs(edited.srgb().astype(int) - seen.with_change(change).pixels).max() <= 3
    assert np.array_equal(edited.pixels[:, 200:], before[:, 200:])
    assert np.array_equal(photo.with_change(change, photo.reduced(SIDE, SIDE)).pixels, edited.pixels)
