"""Delta Denoising Score as a pipeline of diffusers: edit an image by two texts, without a training or a mask.

    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        custom_pipeline="examples/diffusers_pipeline",
        trust_remote_code=True,  # it is this file
    ).to("cuda")
    edited = pipe(prompt="a red leather sofa", source_prompt="a grey sofa", image=room).images[0]

Hertz, Aberman and Cohen-Or, ICCV 2023 (arXiv 2304.07090), section 4, for Stable Diffusion 1.x and 2.x. A latent z
starts as the image's own, z_hat, and takes steps

    z <- z - eta_n (eps^omega(z_t, y, t) - eps^omega(z_hat_t, y_hat, t))

with t and eps drawn anew for each. The file needs diffusers and nothing of dds-distillery; its latents equal those of
`distill.zero_shot.edit` up to rounding, and so do its images, at the size that they are edited at.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from diffusers.image_processor import PipelineImageInput
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput

STEP = 0.1 * 2000 / 64**2 / 2  # the factor of the score at a learning rate of 1; the published rate is 2
FIRST_TIMESTEP, LAST_TIMESTEP = 50, 949


class DeltaDenoisingPipeline(StableDiffusionPipeline):
    """Stable Diffusion's own components; only what happens with them differs."""

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        image: PipelineImageInput,
        source_prompt: str | list[str] = "",
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 200,
        guidance_scale: float = 7.5,
        learning_rate: float = 2.0,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, int, dict[str, Any]], dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
    ) -> StableDiffusionPipelineOutput | tuple[Any, Any]:
        """Edit images of one size together.

        Args:
            prompt: what the images should show; one for all, or one each.
            image: as diffusers' other pipelines take it.
            source_prompt: what they show now; the more truly it says so, the less changes that should not.
            height: to edit at (default: the image's own).
            width: to edit at (default: the image's own).
            num_inference_steps: iterations; 400 for large changes of structure.
            guidance_scale: omega.
            learning_rate: 0.9 times as much every 20 iterations.
            generator: draws the seed of all noise.
            output_type: "pil", "np", "pt", or "latent".
            return_dict: as in diffusers.
            callback_on_step_end: called after each iteration with `latents` and `source_latents`, as asked for; what
                it returns for `latents` is used from there on.
            callback_on_step_end_tensor_inputs: which of the two (default: `latents`).

        Returns:
            The edited images. The change is laid onto the image itself, which so keeps what the VAE would lose, and
            ends at its edges.
        """
        prediction_type = self.scheduler.config.prediction_type
        if prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(f"the scheduler predicts {prediction_type!r}: only epsilon and v_prediction are known")
        self._guidance_scale = guidance_scale
        self._interrupt = False
        device = self._execution_device
        x = self.image_processor.preprocess(image, height, width).to(device, self.vae.dtype)  # (N, 3, H, W)
        y, y_hat = (self._embeds(texts, len(x)) for texts in (prompt, source_prompt))  # (N, T, D)
        texts = torch.cat([self._embeds("", len(x)).repeat(2, 1, 1), y_hat, y])  # (4N, T, D)
        source_latents = (self.vae.encode(x).latent_dist.mean * self.vae.config.scaling_factor).float()
        latents = source_latents.clone()  # z, (N, C, h, w)
        alphas_cumprod = self.scheduler.alphas_cumprod.to(device)  # (1000,)
        seed = 0
        if generator is not None:
            seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))

        with self.progress_bar(total=num_inference_steps) as bar:
            for step in range(num_inference_steps):
                t, eps = _draw(seed, step, source_latents)
                alpha_bar = alphas_cumprod[t]
                pair = torch.cat([source_latents, latents])  # (2N, C, h, w)
                z_t = alpha_bar.sqrt() * pair + (1 - alpha_bar).sqrt() * eps.repeat(2, 1, 1, 1)
                answer = self.unet(
                    torch.cat([z_t, z_t]).to(self.unet.dtype), t.to(device), encoder_hidden_states=texts
                ).sample.to(z_t)  # (4N, C, h, w)
                if prediction_type == "v_prediction":
                    answer = alpha_bar.sqrt() * answer + (1 - alpha_bar).sqrt() * z_t.repeat(2, 1, 1, 1)
                eps_null, eps_text = answer.chunk(2)
                eps_source, eps_edited = (eps_null + guidance_scale * (eps_text - eps_null)).chunk(2)
                # The score is the gradient itself: nothing is differentiated.
                latents = latents - learning_rate * 0.9 ** (step // 20) * STEP * (eps_edited - eps_source)
                if callback_on_step_end is not None:
                    there = {"latents": latents, "source_latents": source_latents}
                    wanted = callback_on_step_end_tensor_inputs or ["latents"]
                    given = callback_on_step_end(self, step, int(t), {name: there[name] for name in wanted})
                    latents = (given or {}).get("latents", latents)
                bar.update()
                if self.interrupt:
                    break

        is_unsafe = None
        if output_type == "latent":
            images: Any = latents
        else:
            edited = _laid_on(
                x.float(), self._decode(latents), self._decode(source_latents), self.vae_scale_factor
            ).clamp(-1, 1)
            edited, is_unsafe = self.run_safety_checker(edited, device, self.vae.dtype)
            images = self.image_processor.postprocess(edited, output_type)
        self.maybe_free_model_hooks()
        return StableDiffusionPipelineOutput(images, is_unsafe) if return_dict else (images, is_unsafe)

    def _embeds(self, texts: str | list[str], num: int) -> torch.Tensor:
        """(num, T, D), of one text for all or one each."""
        listed = [texts] * num if isinstance(texts, str) else list(texts)
        if len(listed) != num:
            raise ValueError(f"there are {num} images and {len(listed)} texts: give one for all, or one each")
        embeds, _ = self.encode_prompt(listed, self._execution_device, 1, False)
        return embeds.to(self.unet.dtype)

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        scaled = latents.to(self.vae.dtype) / self.vae.config.scaling_factor
        return self.vae.decode(scaled).sample.float()


def _draw(seed: int, step: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """t and eps of one iteration: on the CPU and for all images the same, so that none depends on the others."""
    key = f"int:{seed}\x1fstr:edit\x1fint:{step}".encode()
    derived = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1
    generator = torch.Generator().manual_seed(derived)
    t = torch.randint(FIRST_TIMESTEP, LAST_TIMESTEP + 1, (1,), generator=generator)
    eps = torch.randn((1, *like.shape[1:]), generator=generator)
    return t[0].to(like.device), eps.expand_as(like).to(like)


def _laid_on(image: torch.Tensor, edited: torch.Tensor, plain: torch.Tensor, cell: int) -> torch.Tensor:
    """Lay an edit onto its image, (N, 3, H, W) each, in [-1, 1]; `cell` is the pixels a side of a latent.

    Where the two decodes differ little, their difference is added to the image; where they differ much, the edited
    one replaces it. A matte ends the edit at the image's own edges: a latent's cell bleeds over them.
    """
    size = (edited - plain).abs().amax(dim=1, keepdim=True)  # (N, 1, H, W), of 2 from black to white
    base = torch.lerp(plain, image, (size / 0.4).clamp(max=1.0))  # (N, 3, H, W)
    step = max(1, cell // 2)  # pixels between the places that are looked at
    reach = cell // step  # as far as an edit bleeds, in steps
    coarse = F.max_pool2d(F.max_pool2d(size, step), 2 * reach + 1, stride=1, padding=reach)
    around = F.interpolate(coarse, scale_factor=float(step))  # the largest change nearby, (N, 1, H, W)
    share = _ramp(size / (around / 0.4).clamp(0.25, 1.0), 0.1, 0.3)  # haze is faint beside what it comes from
    smooth = _guided_filter(image, share, reach, 4e-3, step)
    matte = torch.maximum((2 * smooth - 0.5).clamp(0.0, 1.0), _ramp(size, 0.8, 1.2))
    return image + matte * (edited - base)


def _ramp(size: torch.Tensor, start: float, end: float) -> torch.Tensor:
    return ((size - start) / (end - start)).clamp(0.0, 1.0)


def _guided_filter(guide: torch.Tensor, image: torch.Tensor, radius: int, eps: float, step: int) -> torch.Tensor:
    """Smooth `image`, (N, 1, H, W), along the edges of `guide`, (N, 3, H, W): He and Sun, arXiv 1505.00996."""

    def mean(x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(x, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)

    colour, values = F.avg_pool2d(guide, step), F.avg_pool2d(image, step)  # (N, 3, h, w), (N, 1, h, w)
    mean_colour, mean_value = mean(colour), mean(values)
    products = colour[:, :, None] * colour[:, None]  # (N, 3, 3, h, w)
    sigma = mean(products.flatten(1, 2)).unflatten(1, (3, 3)) - mean_colour[:, :, None] * mean_colour[:, None]
    covariance = mean(colour * values) - mean_colour * mean_value  # (N, 3, h, w)
    matrix = sigma.permute(0, 3, 4, 1, 2) + eps * torch.eye(3, device=sigma.device)  # (N, h, w, 3, 3)
    slope = torch.linalg.solve(matrix, covariance.permute(0, 2, 3, 1)[..., None])[..., 0].permute(0, 3, 1, 2)
    offset = mean_value - (slope * mean_colour).sum(dim=1, keepdim=True)  # (N, 1, h, w)
    both = F.interpolate(mean(torch.cat([slope, offset], dim=1)), scale_factor=float(step), mode="bilinear")
    return (both[:, :3] * guide).sum(dim=1, keepdim=True) + both[:, 3:]
