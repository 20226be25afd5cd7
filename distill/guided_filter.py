"""The fast guided filter: smooth one image along the edges of another.

He, Sun, Tang: Guided Image Filtering, TPAMI 2013; He, Sun: Fast Guided Filter, arXiv 1505.00996, 2015.

In every window the result is a linear function of the guide, so that it has an edge where the guide has one:

    q_i = mean over windows k that hold pixel i of  (a_k . I_i + b_k),                              (equation 8)
    a_k = (Sigma_k + eps 1)^-1 (mean_k(I p) - mean_k(I) mean_k(p)),                                 (equation 14)
    b_k = mean_k(p) - a_k . mean_k(I),                                                              (equation 15)

where I is the guide, in color, p what is filtered, mean_k the mean over window k and Sigma_k the guide's covariance
there, 3 x 3. The means of a_k and b_k over windows vary slowly, so the fast filter computes them on a coarser grid
and interpolates them; the guide of equation 8 stays as fine as it is, and with it the edges. All is written as
average pools and products, so that it goes into a traced graph.
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate


def guided_filter(guide: Tensor, image: Tensor, radius: int, eps: float, step: int = 1) -> Tensor:
    """Smooth an image where the guide is flat, and keep its edges where the guide has some.

    Args:
        guide: I, float (N, 3, H, W).
        image: p, float (N, 1, H, W).
        radius: of the windows, in steps: they are squares of 2 radius + 1, cut at the image's border.
        eps: contrasts of the guide with a variance far below this are taken for flat; in the guide's units, squared.
        step: pixels between the grid's points, each the mean of its square; 1 is the filter of 2013. H and W are
            multiples of it.

    Returns:
        q, float (N, 1, H, W). It may leave the range of p a little.
    """
    coarse, values = avg_pool2d(guide, step), avg_pool2d(image, step)  # (N, 3, h, w), (N, 1, h, w)
    mean_guide = _box_mean(coarse, radius)  # (N, 3, h, w)
    mean_image = _box_mean(values, radius)  # (N, 1, h, w)
    covariance = _box_mean(coarse * values, radius) - mean_guide * mean_image  # (N, 3, h, w)
    slope = _solve_symmetric(_covariances(coarse, mean_guide, radius), eps, covariance)  # a_k, (N, 3, h, w)
    offset = mean_image - (slope * mean_guide).sum(dim=1, keepdim=True)  # b_k, (N, 1, h, w)
    both = _box_mean(torch.cat([slope, offset], dim=1), radius)  # (N, 4, h, w)
    if step > 1:
        both = interpolate(both, scale_factor=float(step), mode="bilinear")  # (N, 4, H, W)
    q: Tensor = (both[:, :3] * guide).sum(dim=1, keepdim=True) + both[:, 3:]
    return q


def _box_mean(x: Tensor, radius: int) -> Tensor:
    """The mean over each pixel's window, (N, C, H, W): first along columns, then along rows."""
    side = 2 * radius + 1
    columns = avg_pool2d(x, (side, 1), stride=1, padding=(radius, 0), count_include_pad=False)
    return avg_pool2d(columns, (1, side), stride=1, padding=(0, radius), count_include_pad=False)


def _covariances(guide: Tensor, mean: Tensor, radius: int) -> Tensor:
    """Sigma's six different entries rr, rg, rb, gg, gb, bb, (N, 6, H, W)."""
    r, g, b = guide.chunk(3, dim=1)
    mean_r, mean_g, mean_b = mean.chunk(3, dim=1)
    products = torch.cat([r * r, r * g, r * b, g * g, g * b, b * b], dim=1)  # (N, 6, H, W)
    of_means = [mean_r * mean_r, mean_r * mean_g, mean_r * mean_b, mean_g * mean_g, mean_g * mean_b, mean_b * mean_b]
    return _box_mean(products, radius) - torch.cat(of_means, dim=1)


def _solve_symmetric(sigma: Tensor, eps: float, right: Tensor) -> Tensor:
    """Solve (Sigma + eps 1) a = right at each pixel by Cramer's rule; sigma (N, 6, H, W), right (N, 3, H, W)."""
    rr, rg, rb, gg, gb, bb = sigma.chunk(6, dim=1)
    rr, gg, bb = rr + eps, gg + eps, bb + eps
    # The adjugate of a symmetric matrix is symmetric: its rows are products of Sigma's entries.
    a00, a01, a02 = gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb
    a11, a12, a22 = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
    determinant = rr * a00 + rg * a01 + rb * a02  # at least eps^3: Sigma has no negative eigenvalue
    x, y, z = right.chunk(3, dim=1)
    rows = [a00 * x + a01 * y + a02 * z, a01 * x + a11 * y + a12 * z, a02 * x + a12 * y + a22 * z]
    return torch.cat(rows, dim=1) / determinant
