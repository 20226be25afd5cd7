"""Numbers that compare an image with another one: PSNR, SSIM, sharpness. No torch here."""

import numpy as np
from numpy.typing import NDArray

from synth.psnr import psnr_from_mse

Images = NDArray[np.uint8]
"""(N, H, W, 3), or (H, W, 3) where a single image is meant."""
Mask = NDArray[np.bool_]
"""(H, W)."""

MAX_PSNR = 60.0
"""In dB: the PSNR of equal images, so that an exact match does not make a mean infinite."""
_MIN_MSE = 1e-12  # its PSNR is far above MAX_PSNR


def psnr(a: Images, b: Images, mask: Mask | None = None) -> float:
    """PSNR in dB over the pixels of a region and the three channels; at most MAX_PSNR.

    Args:
        a: uint8 (H, W, 3).
        b: the same shape.
        mask: the region, of at least one pixel; None means all of the image.
    """
    error = (a.astype(np.float64) - b.astype(np.float64)) ** 2  # (H, W, 3)
    mse = float(error.mean() if mask is None else error[mask].mean())
    return min(MAX_PSNR, psnr_from_mse(max(mse, _MIN_MSE), peak=255.0))


def ssim_map(a: Images, b: Images) -> NDArray[np.float64]:
    """Structural similarity (Wang et al. 2004) at each pixel, with Gaussian windows of sigma 1.5.

    A window at a region's border sees both sides.

    Args:
        a: uint8 (H, W, 3).
        b: the same shape.

    Returns:
        float64 (H, W): the mean over the channels.
    """
    from skimage.metrics import structural_similarity

    _, similarity = structural_similarity(  # type: ignore[no-untyped-call]
        a, b, data_range=255, channel_axis=2, gaussian_weights=True, use_sample_covariance=False, full=True
    )
    values: NDArray[np.float64] = similarity.mean(axis=2, dtype=np.float64)
    return values


def sharpness(image: Images, truth: Images, mask: Mask) -> float:
    """The mean absolute Laplacian of an image over that of its truth, within a region; blur is below 1.

    Args:
        image: uint8 (H, W, 3).
        truth: the same shape.
        mask: the region, of at least one pixel.
    """
    return float(_laplacian(image)[mask].mean() / _laplacian(truth)[mask].mean())


def _laplacian(image: Images) -> NDArray[np.float64]:
    """uint8 (H, W, 3) -> the absolute Laplacian of the grey values, (H, W), with the border repeated."""
    grey = np.pad(image.mean(axis=2, dtype=np.float64), 1, mode="edge")  # (H + 2, W + 2)
    neighbours = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]  # (H, W)
    values: NDArray[np.float64] = np.abs(4 * grey[1:-1, 1:-1] - neighbours)
    return values
