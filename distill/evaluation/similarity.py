"""Judges of edited photographs, where no true answer is known: other people's networks.

All take images as uint8 (N, H, W, 3), before and after the edit, and return float64 (N,). The networks are named by
Hub id or folder. One that cannot be opened is a TeacherError; no metric is ever made up in its place.

    LPIPS         Zhang et al. 2018: perceptual distance before to after; 0 means the same
    CLIP          cosine of the edited image and the target text; more is better
    directional   Gal et al. 2021: cosine of the change of the image and the change of the text, in CLIP's space
    structure     Tumanyan et al. 2022: mean squared change of the self-similarity of DINO's keys; 0 means the same
"""

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from distill.evaluation.metrics import Images
from synth.dataset.clip import cannot_open, load_clip
from synth.errors import TeacherError, first_line
from synth.pixels import to_float

Values = NDArray[np.float64]
"""One an image."""

_NO_METRICS = '{} is not installed: pip install "dds-distillery[metrics]"'
_DINO_SIDE = 224  # px
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class Lpips:
    """The distance of torchmetrics, over AlexNet or another of its networks.

    Raises:
        TeacherError: if a package is not installed, or torchvision's weights cannot be had.
    """

    def __init__(self, net: Literal["alex", "squeeze"] = "alex") -> None:
        require_metrics()
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        try:
            self._model = LearnedPerceptualImagePatchSimilarity(net, reduction="none").eval()
        except ModuleNotFoundError:
            raise TeacherError(_NO_METRICS.format("torchvision")) from None
        except Exception as error:  # torchvision's download and torch's reader share no base class
            raise TeacherError(
                f"torchvision's {net} network cannot be opened ({first_line(error)}): it is downloaded once, "
                "into torch's own cache"
            ) from error

    @torch.no_grad()
    def distance(self, before: Images, after: Images) -> Values:
        """The distance of each pair."""
        pairs = (to_float(torch.from_numpy(images)) for images in (before, after))
        return _as_float64(self._model(*pairs).flatten())


def require_metrics() -> None:
    """Raise TeacherError if torchmetrics is not installed."""
    try:
        import torchmetrics  # noqa: F401
    except ModuleNotFoundError as error:
        raise TeacherError(_NO_METRICS.format(error.name)) from None


class Clip:
    """Images and texts as directions in CLIP's space.

    Raises:
        TeacherError: if the model cannot be opened.
    """

    def __init__(self, name: str) -> None:
        self._model, self._tokenizer, self._processor = load_clip(name)

    def text_score(self, after: Images, text: str) -> Values:
        """The cosine of each image and the text."""
        return _as_float64(self._image_directions(after) @ self._text_direction(text))

    def directional(self, before: Images, after: Images, source: str, text: str) -> Values:
        """The cosine of each image's change and the texts' change; 0 for an image that did not change."""
        text_change = F.normalize(self._text_direction(text) - self._text_direction(source), dim=0)  # (D,)
        image_change = F.normalize(self._image_directions(after) - self._image_directions(before), dim=1)  # (N, D)
        return _as_float64(image_change @ text_change)

    @torch.no_grad()
    def _image_directions(self, images: Images) -> Tensor:
        """(N, D), of length 1."""
        pixels = self._processor(images=list(map(Image.fromarray, images)), return_tensors="pt").pixel_values
        return F.normalize(self._model.visual_projection(self._model.vision_model(pixels).pooler_output), dim=1)

    @torch.no_grad()
    def _text_direction(self, text: str) -> Tensor:
        """(D,), of length 1; a text longer than CLIP reads is cut."""
        tokens = self._tokenizer([text], truncation=True, return_tensors="pt")
        pooled = self._model.text_model(**tokens).pooler_output  # (1, width)
        return F.normalize(self._model.text_projection(pooled)[0], dim=0)


class Structure:
    """The layout of an image, whatever it looks like: how alike its places are to DINO's last layer.

    Raises:
        TeacherError: if the model cannot be opened, or has no keys.
    """

    def __init__(self, name: str) -> None:
        from transformers import AutoModel

        try:
            self._model = AutoModel.from_pretrained(name, use_safetensors=True).eval().requires_grad_(False)
        except Exception as error:  # transformers', the Hub's and safetensors' errors share no base class
            raise cannot_open(name, "DINO", error) from None
        layers = [layer for path, layer in self._model.named_modules() if path.endswith(("k_proj", ".key"))]
        if not layers:
            raise TeacherError(
                f"{name} has no keys to compare: name a vision transformer such as facebook/dino-vitb8"
            )
        # transformers returns no keys: a hook on the last layer's projection records them.
        layers[-1].register_forward_hook(self._record_keys)
        self._keys = torch.empty(0)

    def distance(self, before: Images, after: Images) -> Values:
        """The mean squared difference of each pair's self-similarities."""
        size = (_DINO_SIDE, _DINO_SIDE)

        def resized(images: Images) -> Tensor:
            small = [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) for image in images]
            return torch.from_numpy(np.stack(small)).float().permute(0, 3, 1, 2) / 255  # (N, 3, 224, 224)

        return self._distance(resized(before), resized(after))

    def distance_of_pie_bench(self, before: Images, after: Images) -> Values:
        """The same as PIE-Bench's own code computes it, for images that are squares.

        It forgets to divide by 255 before it normalizes, and enlarges or reduces without a filter. All published
        tables come from that code, so that only these numbers stand beside theirs.
        """

        def resized(images: Images) -> Tensor:
            x = torch.tensor(images).float().permute(0, 3, 1, 2)  # (N, 3, H, W) in [0, 255]
            return F.interpolate(x, (_DINO_SIDE, _DINO_SIDE), mode="bilinear", align_corners=False)

        return self._distance(resized(before), resized(after))

    def _distance(self, before: Tensor, after: Tensor) -> Values:
        difference = self._self_similarity(before) - self._self_similarity(after)  # (N, T, T)
        return _as_float64(difference.square().mean(dim=(1, 2)))

    @torch.no_grad()
    def _self_similarity(self, x: Tensor) -> Tensor:
        """(N, 3, 224, 224) -> (N, T, T): the cosine of the keys of any two of an image's T tokens."""
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (_IMAGENET_MEAN, _IMAGENET_STD))
        self._model(pixel_values=(x - mean) / std)
        keys = F.normalize(self._keys, dim=2)  # (N, T, D), all heads side by side
        return keys @ keys.transpose(1, 2)

    def _record_keys(self, layer: Any, inputs: Any, keys: Tensor) -> None:
        self._keys = keys


def _as_float64(values: Tensor) -> Values:
    return values.double().numpy()
