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
`distill.zero_shot.edit` up to rounding.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import torch
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
            The edited images. The change is added to the image itself, which so keeps what the VAE would lose.
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
            edited = (x.float() + self._decode(latents) - self._decode(source_latents)).clamp(-1, 1)
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
