"""Trains the miniature teacher on drawn scenes and writes it as a diffusers folder.

    python -m synth.miniature.train draw   --out work --num-scenes 120000
    python -m synth.miniature.train vae    --out work --minutes 8
    python -m synth.miniature.train encode --out work
    python -m synth.miniature.train unet   --out work --minutes 18
    python -m synth.miniature.train decoder --out work --minutes 4
    python -m synth.miniature.train reader --out work --minutes 2
    python -m synth.miniature.train assemble --out work --folder synth/miniature/weights
    python -m synth.miniature.train card   --out work --folder synth/miniature/weights

Each stage writes a checkpoint to `--out` (safetensors and JSON) and resumes from it when called again. The learning
rate follows the minutes trained so far against `--minutes`, so a stage may be cut into several calls
(`--stop-after`). All stages take half an hour on a GPU and days on two CPU cores. On a CPU, train `vae` and `unet`
with one process per core, which is up to 1.4 times faster than one process of two threads:

    OMP_NUM_THREADS=1 torchrun --nproc_per_node 2 -m synth.miniature.train unet --out work --batch-size 16
"""

import argparse
import json
import math
import os
from pathlib import Path

import torch
import torch.distributed as dist

from synth.cpu import keep_freed_memory
from synth.errors import one_line_errors
from synth.miniature.assembly import assemble
from synth.miniature.card import write_card
from synth.miniature.drawing import draw
from synth.miniature.reader_training import train_readers
from synth.miniature.stage import rank, world_size
from synth.miniature.unet_training import train_unet
from synth.miniature.vae_training import encode, train_decoder, train_vae


@one_line_errors
def main() -> None:
    """Run one stage; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("draw", "vae", "encode", "unet", "decoder", "reader", "assemble", "card"))
    parser.add_argument("--out", type=Path, required=True, help="checkpoints, logs and grids")
    parser.add_argument("--folder", type=Path, help="assemble, card: the diffusers folder (default: OUT/pipeline)")
    parser.add_argument("--init", type=Path, help="vae, unet: start from this diffusers folder's weights")
    parser.add_argument("--num-scenes", type=int, default=120_000, help="draw: scenes (default: 120000)")
    parser.add_argument(
        "--num-pairs", type=int, default=40_000, help="reader: scenes, each with a counterfactual (default: 40000)"
    )
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="length of the stage over all calls (default: 10)"
    )
    parser.add_argument(
        "--stop-after", type=float, default=math.inf, help="end this call after so many minutes (default: never)"
    )
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--num-samples", type=int, default=200, help="unet: captions to score (default: 200)")
    parser.add_argument(
        "--sample-every", type=float, default=math.inf, help="unet: minutes between scores (default: at the end)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True
    args.out.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    torch.manual_seed(args.seed)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        dist.init_process_group("gloo")
    # The card names the settings of each stage's last call.
    settings = {key: value for key, value in vars(args).items() if value != parser.get_default(key)}
    if rank() == 0:
        with (args.out / "log.jsonl").open("a") as log:
            log.write(json.dumps({"call": settings | {"processes": world_size()}}, default=str) + "\n")
    if args.stage == "draw":
        draw(args.out, args.num_scenes)
    elif args.stage == "vae":
        train_vae(args)
    elif args.stage == "encode":
        encode(args.out, torch.device(args.device))
    elif args.stage == "unet":
        train_unet(args)
    elif args.stage == "decoder":
        train_decoder(args)
    elif args.stage == "reader":
        train_readers(args)
    elif args.stage == "assemble":
        assemble(args.out, args.folder or args.out / "pipeline")
    else:
        write_card(args.folder or args.out / "pipeline", args.out)


if __name__ == "__main__":
    main()
