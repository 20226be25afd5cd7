"""How edited photographs are judged, for want of a true answer: by other people's networks.

All take images as uint8 (N, H, W, 3), before and after the edit, and give float (N,). The networks are named by Hub
id or folder; what cannot be opened is a TeacherError, and no figure is ever made up in its place.

    LPIPS         Zhang et al. 2018: perceptual distance before to after; 0 is the same
    CLIP          cosine of the edited image and the target text; more is better
    directional   Gal et al. 2021: cosine of the change of the image and the change of the text, in CLIP's space
    structure     Tumanyan et al. 2022: mean squared change of the self-similarity of DINO's keys; 0 is the same
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from synth.errors import TeacherError

Images = NDArray[np.uint8]
Figures = NDArray[np.float64]

_DINO_SIDE = 224  # px
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Lpips:
    """The distance of the package `lpips`, over AlexNet."""

    def __init__(self) -> None:
        try:
            from lpips import LPIPS
        except ModuleNotFoundError as error:
            raise TeacherError(f'{error.name} is not installed: pip install "dds-distillery[metrics]"') from None
        self._model = LPIPS(net="alex", verbose=False).eval().requires_grad_(False)

    @torch.no_grad()
    def distance(self, before: Images, after: Images) -> Figures:
        """Of each pair."""
        pairs = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1 for images in (before, after))
        return _figures(self._model(*pairs).flatten())


class Clip:
    """Images and texts as directions in CLIP's space."""

    def __init__(self, name: str) -> None:
        from transformers import CLIPModel, CLIPTokenizer
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        try:
            self._model = CLIPModel.from_pretrained(name, use_safetensors=True).eval().requires_grad_(False)
            self._tokenizer = CLIPTokenizer.from_pretrained(name)
            self._processor = CLIPImageProcessorPil.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise _not_opened(name, "CLIP", error) from None

    def text_score(self, after: Images, text: str) -> Figures:
        """The cosine of each image and the text."""
        return _figures(self._images(after) @ self._text(text))

    def directional(self, before: Images, after: Images, source: str, text: str) -> Figures:
        """The cosine of each image's way and the texts'; 0 for an image that did not change."""
        way = F.normalize(self._text(text) - self._text(source), dim=0)  # (D,)
        return _figures(F.normalize(self._images(after) - self._images(before), dim=1) @ way)

    @torch.no_grad()
    def _images(self, images: Images) -> Tensor:
        """(N, D), of length 1."""
        pixels = self._processor(images=list(map(Image.fromarray, images)), return_tensors="pt").pixel_values
        return F.normalize(self._model.visual_projection(self._model.vision_model(pixels).pooler_output), dim=1)

    @torch.no_grad()
    def _text(self, text: str) -> Tensor:
        """(D,), of length 1; a long text is cut at what CLIP reads."""
        words = self._tokenizer([text], truncation=True, return_tensors="pt")
        pooled = self._model.text_model(**words).pooler_output
        return F.normalize(self._model.text_projection(pooled)[0], dim=0)


class Structure:
    """What is where, whatever it looks like: how alike the places of an image are to DINO's last layer."""

    def __init__(self, name: str) -> None:
        from transformers import AutoModel

        try:
            self._model = AutoModel.from_pretrained(name, use_safetensors=True).eval().requires_grad_(False)
        except (OSError, ValueError) as error:
            raise _not_opened(name, "DINO", error) from None
        layers = [layer for path, layer in self._model.named_modules() if path.endswith(("k_proj", ".key"))]
        if not layers:
            raise TeacherError(
                f"{name} has no keys to compare: name a vision transformer such as facebook/dino-vitb8"
            )
        layers[-1].register_forward_hook(self._keep)
        self._keys = torch.empty(0)

    def distance(self, before: Images, after: Images) -> Figures:
        """The mean squared difference of each pair's self-similarities."""
        difference = self._self_similarity(before) - self._self_similarity(after)  # (N, T, T)
        return _figures(difference.square().mean(dim=(1, 2)))

    @torch.no_grad()
    def _self_similarity(self, images: Images) -> Tensor:
        """(N, T, T): the cosine of the keys of any two of an image's T tokens."""
        size = (_DINO_SIDE, _DINO_SIDE)
        resized = [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) for image in images]
        x = torch.from_numpy(np.stack(resized)).float() / 255  # (N, 224, 224, 3)
        x = (x - torch.tensor(_IMAGENET_MEAN)) / torch.tensor(_IMAGENET_STD)
        self._model(pixel_values=x.permute(0, 3, 1, 2))
        keys = F.normalize(self._keys, dim=2)  # (N, T, D), all heads side by side
        return keys @ keys.transpose(1, 2)

    def _keep(self, layer: Any, given: Any, keys: Tensor) -> None:
        self._keys = keys


def _not_opened(name: str, kind: str, error: Exception) -> TeacherError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return TeacherError(f"{name} cannot be opened as a {kind} model ({reason}): name a folder or a Hub id")


def _figures(values: Tensor) -> Figures:
    return values.double().numpy()
