"""Enlarge the change of an image so that its edges lie on the image's own: numpy alone.

A network sees a photograph at a small size, where an edge is somewhere within a pixel, which is many of the
photograph's. A filter that knows the change alone blurs the edge over them, and rings beside it. The photograph knows
where it is. In a window of the small image, the change is fitted as a linear function of the color there, and
the function is applied to the photograph's colors: the fast guided filter (He, Sun: arXiv 1505.00996, 2015),

    change_i = mean over windows k that hold pixel i of  (A_k . I_i + b_k),
    A_k = (Sigma_k + EPS 1)^-1 (mean_k(I p) - mean_k(I) mean_k(p)),    b_k = mean_k(p) - A_k . mean_k(I),

where p is the small change, I the image, small for the fit and large in use, and Sigma_k its covariance in the
window, 3 x 3. So an edge of the change that is one of the photograph stands at its very pixels, and detail that the
edit replaces goes with what it belonged to, in place of shining through.

Colors cannot explain a new shape, such as a bloom before a plain wall, and the mean of functions would blur it. What
the fit leaves is therefore added to b where the image is flat, and has no edges for a change to miss:

    b_i + FLAT / (FLAT + mean(trace Sigma)) (p_i - change_i).

Where the change is exactly 0 around a pixel, all of these are, and the photograph keeps its bits.
"""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

# All were chosen on development scenes (docs/method.md). Colors and changes are of 2, from black to white.
EPS = 0.04
"""Contrasts of the image with a variance far below this guide nothing."""
FLAT = 0.03
"""The variance of the image, over its three channels, at which half of what the fit leaves is added."""
_HALF_RANGE = 127.5  # levels
_MAX_CHANGE = 2.0  # more does not change an 8-bit pixel any further, and might overflow in a product

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]


def fit_change(change: FloatArray, image: UInt8Array) -> FloatArray:
    """Fit a change as linear functions of an image's color, one a pixel.

    Args:
        change: p, float32 (3, h, w); 2.0 is the way from black to white.
        image: I, uint8 (h, w, 3), which was changed.

    Returns:
        float32 (3, 4, h, w): for each channel of the change its slopes over red, green and blue, and its offset in
        levels, to be applied to levels, 0 to 255.
    """
    p = np.clip(change, -_MAX_CHANGE, _MAX_CHANGE)  # (3, h, w)
    color = image.transpose(2, 0, 1).astype(np.float32) / np.float32(_HALF_RANGE) - 1  # I, (3, h, w)
    mean = _mean(color)  # (3, h, w)
    sigma = _mean(color[:, None] * color) - mean[:, None] * mean  # (3, 3, h, w)
    weight = FLAT / (FLAT + np.maximum(_mean(np.trace(sigma)), 0))  # (h, w)
    inverse = _inverse(sigma + np.float32(EPS) * np.eye(3, dtype=np.float32)[:, :, None, None])  # (3, 3, h, w)
    functions = np.empty((3, 4, *p.shape[1:]), np.float32)
    for channel, values in enumerate(p):
        mean_p = _mean(values)  # (h, w)
        covariance = _mean(color * values) - mean * mean_p  # (3, h, w)
        slopes = (inverse * covariance).sum(axis=1)  # A, (3, h, w)
        offset = _mean(mean_p - (slopes * mean).sum(axis=0))  # (h, w)
        slopes = _mean(slopes)
        offset += weight * (values - (slopes * color).sum(axis=0) - offset)
        functions[channel, :3] = slopes
        functions[channel, 3] = (offset - slopes.sum(axis=0)) * np.float32(_HALF_RANGE)
    return functions


def apply_fit(
    functions: FloatArray, pixels: UInt8Array, rows: slice, columns: slice, size: tuple[int, int]
) -> FloatArray:
    """Apply what `fit_change` found to one tile of a large image, at least as large as the small one.

    Args:
        functions: float32 (3, 4, h, w).
        pixels: the tile, uint8 (rows, columns, 3).
        rows: which of the large image's it has.
        columns: likewise.
        size: (height, width) of the large image.

    Returns:
        The change in levels, float32 (rows, columns, 3); to the bit the same whatever the tiles.
    """
    above, below, down = _between(rows, functions.shape[2], size[0])
    left, right, across = _between(columns, functions.shape[3], size[1])
    starts = [0, *(np.flatnonzero(np.diff(above)) + 1), len(above)]
    levels = np.zeros(pixels.shape, np.float32)
    buffers = np.empty((5, max(np.diff(starts)), pixels.shape[1]), np.float32)
    # Rows between the same two of the small image go together: they share all but one factor, and fit into a cache.
    for start, stop in pairwise(starts):
        both = functions[:, :, [above[start], below[start]]]  # (3, 4, 2, w)
        changed = np.any(both != 0, axis=(0, 1, 2))  # (w,)
        reached = np.flatnonzero(changed[left] | changed[right])
        if not reached.size:
            continue
        part = slice(reached[0], reached[-1] + 1)  # of the columns: an edit is often a small part of an image
        first, last = both[..., left[part]], both[..., right[part]]
        wide = first + (last - first) * across[part]  # (3, 4, 2, part)
        base, step = wide[:, :, 0], wide[:, :, 1] - wide[:, :, 0]  # (3, 4, part)
        share = down[start:stop, None]  # (rows, 1)
        *colors, total, plane = buffers[:, : stop - start, : len(across[part])]
        for channel, color in enumerate(colors):
            color[:] = pixels[start:stop, part, channel]
        for channel in range(3):
            np.multiply(share, step[channel, 3], out=total)
            total += base[channel, 3]
            for number, color in enumerate(colors):
                np.multiply(share, step[channel, number], out=plane)
                plane += base[channel, number]
                plane *= color
                total += plane
            levels[start:stop, part, channel] = total
    return levels


def _between(span: slice, small: int, large: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], FloatArray]:
    """Find between which two of `small` places each of a span of `large` lies, and the second one's share."""
    at = (np.arange(span.start, span.stop) + 0.5) * (small / large) - 0.5
    at = np.clip(at, 0, small - 1)
    first = at.astype(np.intp)
    return first, np.minimum(first + 1, small - 1), (at - first).astype(np.float32)


def _mean(values: FloatArray) -> FloatArray:
    """The mean over each pixel's window of 3 x 3, cut at the border, (..., h, w); of zeros it is exactly 0."""
    columns = values.copy()
    columns[..., 1:] += values[..., :-1]
    columns[..., :-1] += values[..., 1:]
    total = columns.copy()
    total[..., 1:, :] += columns[..., :-1, :]
    total[..., :-1, :] += columns[..., 1:, :]
    total /= _counts(values.shape[-2])[:, None] * _counts(values.shape[-1])
    return total


def _counts(length: int) -> FloatArray:
    counts = np.full(length, 3, np.float32)
    counts[0] -= 1
    counts[-1] -= 1
    return counts


def _inverse(matrix: FloatArray) -> FloatArray:
    """Invert symmetric matrices, (3, 3, h, w), by their adjugates."""
    (rr, rg, rb), (_, gg, gb), (_, _, bb) = matrix
    a00, a01, a02 = gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb
    a11, a12, a22 = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
    determinant = rr * a00 + rg * a01 + rb * a02  # (h, w), at least EPS^3: Sigma has no negative eigenvalue
    adjugate = np.stack([np.stack(row) for row in ((a00, a01, a02), (a01, a11, a12), (a02, a12, a22))])
    adjugate /= determinant
    return adjugate
