"""PIE-Bench's metrics, as the code behind its published tables computes them, and the same over what counts alone.

That code multiplies both images by the mask of what shall stay, and averages over all pixels, those that are zero in
both included: a small background scores better than a large one. Beside its numbers stand the means over the
background's own pixels, as `..._kept`. An image without background has neither.

    structure      self-similarity of DINO ViT-B/8's keys, before to after; 0 means the same
    psnr, mse, ssim, lpips     before to after, multiplied by the mask; pixels in [0, 1], SqueezeNet for LPIPS
    clip_whole     100 times the cosine of the edited image and the editing prompt, at least 0; CLIP ViT-L/14
    clip_edited    the same of the edited image multiplied by the mask of the edit
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from distill.evaluation.examples import Example
from distill.evaluation.metrics import psnr, ssim_map
from distill.evaluation.similarity import Clip, Lpips, Structure, require_metrics

PUBLISHED: Mapping[str, tuple[str, float]] = {
    "structure": ("structure x1000", 1e3),
    "psnr": ("PSNR", 1.0),
    "lpips": ("LPIPS x1000", 1e3),
    "mse": ("MSE x10000", 1e4),
    "ssim": ("SSIM x100", 1e2),
    "clip_whole": ("CLIP whole", 1.0),
    "clip_edited": ("CLIP edited", 1.0),
}
"""Metric -> its column in the papers' tables, and the factor there."""
KEPT: Mapping[str, tuple[str, float]] = {
    "psnr_kept": ("PSNR kept", 1.0),
    "mse_kept": ("MSE kept x10000", 1e4),
    "ssim_kept": ("SSIM kept x100", 1e2),
}
"""The same for the means over the background's own pixels."""


@dataclass(frozen=True)
class JudgeNames:
    """Which models judge; each by Hub id or folder."""

    clip: str | None = None
    dino: str | None = None
    lpips: bool = False

    def missing(self) -> list[str]:
        """A line for each metric that is not measured."""
        lines = []
        if self.dino is None:
            lines.append("structure is not measured: name the model, --dino facebook/dino-vitb8 or a folder")
        if not self.lpips:
            lines.append("LPIPS is not measured: add --lpips")
        if self.clip is None:
            lines.append("CLIP is not measured: name the model, --clip openai/clip-vit-large-patch14 or a folder")
        return lines


class Judges:
    """The models behind the metrics, and the metrics of one edited image.

    Raises:
        TeacherError: if a package is not installed, or a model cannot be opened.
    """

    def __init__(self, names: JudgeNames) -> None:
        require_metrics()
        self._clip = Clip(names.clip) if names.clip is not None else None
        self._structure = Structure(names.dino) if names.dino is not None else None
        self._lpips = Lpips("squeeze") if names.lpips else None

    def measure(self, example: Example, edited: NDArray[np.uint8]) -> dict[str, float | None]:
        """Measure one edited image.

        Args:
            example: with its mask, (H, W), true where the edit belongs.
            edited: uint8 (H, W, 3).

        Returns:
            Each metric of PUBLISHED and KEPT; None for what was not measured, or has no pixels.
        """
        mask = example.mask
        assert mask is not None, "the benchmark's cases have masks"
        before = example.image
        metrics: dict[str, float | None] = dict.fromkeys([*PUBLISHED, *KEPT])
        if self._structure is not None:
            metrics["structure"] = float(self._structure.distance_of_pie_bench(before[None], edited[None])[0])
        if not mask.all():
            kept = (~mask)[..., None]
            masked_before, masked_after = before * kept, edited * kept
            metrics |= _published_pixels(masked_before, masked_after)
            metrics["psnr_kept"] = psnr(edited, before, ~mask)
            difference = (edited.astype(np.float64) - before)[~mask] / 255
            metrics["mse_kept"] = float(np.square(difference).mean())
            metrics["ssim_kept"] = float(ssim_map(edited, before)[~mask].mean())
            if self._lpips is not None:
                metrics["lpips"] = float(self._lpips.distance(masked_before[None], masked_after[None])[0])
        if self._clip is not None:
            for name, image in (("clip_whole", edited), ("clip_edited", edited * mask[..., None])):
                metrics[name] = max(0.0, 100 * float(self._clip.text_score(image[None], example.prompt)[0]))
        return metrics


def _published_pixels(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> dict[str, float]:
    """PSNR, MSE and SSIM of two images, uint8 (H, W, 3), that are black where they do not count."""
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
    from torchmetrics.functional.regression import mean_squared_error

    # (1, 3, H, W) in [0, 1]
    a, b = (torch.from_numpy(image).permute(2, 0, 1)[None].contiguous().float() / 255 for image in (after, before))
    ssim = structural_similarity_index_measure(a, b, data_range=1.0)
    assert isinstance(ssim, torch.Tensor), "the map is not asked for"
    return {
        "psnr": float(peak_signal_noise_ratio(a, b, data_range=1.0)),
        "mse": float(mean_squared_error(a, b)),
        "ssim": float(ssim),
    }
