"""Time of the scores, compared with the bare network calls that they need, in one run.

    python benchmarks/scoring.py [--teacher miniature] [--rounds 20]

    iteration  an iteration of zero-shot DDS, over one bare call of the network on its four branches
    plain      the same, over a loop written like the authors' notebook: one call of four, autograd, SGD
    shared     teacher passes of K = 4 edits of an image with one source branch, over 4 K passes with one for each

All take turns. Each number is the median of the rounds' ratios.
"""

import argparse
from functools import partial

import torch
from processes import one_line
from turns import in_turns, median_ratio

from distill.optimization import optimize
from distill.scores import Sources, dds, shared_source_dds
from distill.settings import EditSettings
from synth.settings import TeacherSettings
from synth.teacher.teacher import Conditioning, Teacher

_EDITS = 4
_ITERATIONS = 10  # a turn


@one_line
def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="miniature")
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    teacher = Teacher.load(TeacherSettings(id=args.teacher))
    side = teacher.defaults.image_size // teacher.vae_scale_factor
    generator = torch.Generator().manual_seed(0)
    z_hat = torch.randn((1, teacher.latent_channels, side, side), generator=generator).to(teacher.device)
    y, y_hat = teacher.encode_prompt(["a red leather sofa"]), teacher.encode_prompt(["a grey fabric sofa"])
    settings = EditSettings(iterations=_ITERATIONS, guidance_scale=7.5, learning_rate=2.0)

    def ours() -> None:
        optimize(teacher, z_hat, y, y_hat, settings)

    def bare() -> None:
        """Call only the network, on the inputs of one iteration."""
        z_t = torch.cat([z_hat] * 4).to(teacher.dtype)
        t = torch.full((4,), 500, device=teacher.device)
        texts = Conditioning.cat([teacher.null, teacher.null, y_hat, y])
        with torch.no_grad():
            for _ in range(_ITERATIONS):
                teacher.family.predict_noise(z_t, t, texts)

    def plain() -> None:
        """Use none of our functions but the network call: autograd takes the score from a loss."""
        z = z_hat.clone().requires_grad_(True)
        optimizer = torch.optim.SGD([z], lr=0.1)
        texts = Conditioning.cat([teacher.null, teacher.null, y_hat, y])
        for _ in range(_ITERATIONS):
            with torch.no_grad():
                t = torch.randint(50, 950, (1,), device=z.device)
                eps = torch.randn_like(z)
                both = teacher.add_noise(torch.cat([z_hat, z]), torch.cat([eps] * 2), torch.cat([t] * 2))
                out = teacher.family.predict_noise(torch.cat([both] * 2).to(teacher.dtype), torch.cat([t] * 4), texts)
                null, conditional = out.chunk(2)
                guided = null + 7.5 * (conditional - null)
                gradient = torch.nan_to_num(guided[1:] - guided[:1])
            loss = 2000 * (z * gradient).sum() / z[0, 0].numel()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    several = z_hat.repeat(_EDITS, 1, 1, 1)
    texts = teacher.encode_prompt(["a red sofa", "a blue sofa", "a pink sofa", "a green sofa"])
    t = torch.full((1,), 500, device=teacher.device)
    eps = torch.randn_like(z_hat)

    def shared() -> None:
        shared_source_dds(teacher, several, texts, Sources(z_hat, y_hat, t, eps), [0] * _EDITS, 7.5)

    def separate() -> None:
        dds(
            teacher,
            several,
            z_hat.repeat(_EDITS, 1, 1, 1),
            texts,
            y_hat.expand(_EDITS),
            t.repeat(_EDITS),
            eps.repeat(_EDITS, 1, 1, 1),
            7.5,
        )

    works = {work.__name__: work for work in (ours, bare, plain, shared, separate)}
    ratio = partial(median_ratio, in_turns(works, args.rounds))
    print(f"iteration  {ratio('ours', 'bare'):.3f} of the bare call")
    print(f"plain      {ratio('ours', 'plain'):.3f} of the notebook's loop")
    print(f"shared     {ratio('separate', 'shared'):.3f} times as fast as {_EDITS} separate scores")


if __name__ == "__main__":
    main()
