import numpy as np
import pytest
import torch
from agreement import assert_agrees
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from distill.guided_filter import guided_filter


def by_windows(
    guide: NDArray[np.float64], image: NDArray[np.float64], radius: int, eps: float
) -> NDArray[np.float64]:
    """The paper's equations 8, 14 and 15, a window at a time: guide (3, H, W), image (H, W)."""
    _, height, width = guide.shape
    slopes, offsets = np.empty((3, height, width)), np.empty((height, width))

    def window(row: int, column: int) -> tuple[slice, slice]:
        return (
            slice(max(0, row - radius), min(height, row + radius + 1)),
            slice(max(0, column - radius), min(width, column + radius + 1)),
        )

    for row, column in np.ndindex(height, width):
        rows, columns = window(row, column)
        inside, values = guide[:, rows, columns].reshape(3, -1), image[rows, columns].reshape(-1)
        sigma = np.cov(inside, bias=True) + eps * np.eye(3)
        slopes[:, row, column] = np.linalg.solve(
            sigma, (inside * values).mean(axis=1) - inside.mean(axis=1) * values.mean()
        )
        offsets[row, column] = values.mean() - slopes[:, row, column] @ inside.mean(axis=1)
    result = np.empty((height, width))
    for row, column in np.ndindex(height, width):
        rows, columns = window(row, column)
        mean_slope = slopes[:, rows, columns].mean(axis=(1, 2))
        result[row, column] = mean_slope @ guide[:, row, column] + offsets[rows, columns].mean()
    return result


def test_it_is_the_papers_filter() -> None:
    rng = np.random.default_rng(0)
    guide, image = rng.uniform(-1, 1, (2, 3, 9, 12)), rng.uniform(0, 1, (2, 1, 9, 12))
    result = guided_filter(torch.from_numpy(guide), torch.from_numpy(image), radius=2, eps=0.01)
    expected = np.stack([by_windows(g, p[0], 2, 0.01) for g, p in zip(guide, image, strict=True)])
    np.testing.assert_allclose(result[:, 0].numpy(), expected, rtol=1e-10, atol=1e-10)


def test_a_flat_guide_leaves_two_box_means() -> None:
    image = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = guided_filter(torch.zeros(1, 3, 16, 16, dtype=torch.float64), image, radius=3, eps=1e-3)
    box = torch.nn.functional.avg_pool2d(image, 7, stride=1, padding=3, count_include_pad=False)
    twice = torch.nn.functional.avg_pool2d(box, 7, stride=1, padding=3, count_include_pad=False)
    assert_agrees(result, twice, steps=10)


@pytest.mark.parametrize("step", [1, 2, 4])
@pytest.mark.parametrize("edge", [16, 18])
def test_a_blurred_edge_becomes_the_guides_edge(step: int, edge: int) -> None:
    guide = torch.zeros(1, 3, 8, 32)
    guide[:, 0, :, edge:] = 1.0  # an edge in one channel alone: a grey guide would see a third of it
    blurred = torch.linspace(0, 1, 9)
    image = torch.cat([torch.zeros(edge - 4), blurred, torch.ones(27 - edge)]).expand(1, 1, 8, 32)
    result = guided_filter(guide, image, radius=8 // step, eps=1e-4, step=step)
    steps = (result - result.roll(1, dims=3))[..., 1:]
    assert steps[..., edge - 1].min() > 0.5  # at the guide's edge; the image's own step there is 0.125
    assert steps[..., : edge - 1].max() < 0.05 and steps[..., edge:].max() < 0.05


def test_a_coarser_grid_changes_little() -> None:
    generator = torch.Generator().manual_seed(0)
    guide = interpolate(torch.rand(1, 3, 8, 8, generator=generator), scale_factor=8.0, mode="bilinear")
    image = interpolate(torch.rand(1, 1, 8, 8, generator=generator), scale_factor=8.0, mode="bilinear")
    fine = guided_filter(guide, image, radius=8, eps=1e-2)
    coarse = guided_filter(guide, image, radius=2, eps=1e-2, step=4)
    assert (coarse - fine).abs().max() < 0.1 and (coarse - fine).abs().mean() < 0.02
    assert (fine - image).abs().mean() > 0.05, "it does filter"


def test_float32_stays_close_where_the_guide_is_nearly_flat() -> None:
    """Cancellation in the covariances must not blow up: eps bounds the determinant from below."""
    generator = torch.Generator().manual_seed(0)
    guide = 0.9 + 1e-4 * torch.rand(1, 3, 32, 32, generator=generator, dtype=torch.float64)
    image = torch.rand(1, 1, 32, 32, generator=generator, dtype=torch.float64)
    exact = guided_filter(guide, image, radius=3, eps=4e-3)
    assert (guided_filter(guide.float(), image.float(), radius=3, eps=4e-3) - exact).abs().max() < 1e-4
