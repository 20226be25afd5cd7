"""Memory while a dataset grows to 200,000 rows, painted at no cost. It must stay flat.

    python benchmarks/growing.py [--num-images 200000]

The images are noise of 16 px, so that only our own work is left: filters, refills, shards, gallery, card, near
duplicates.
"""

import argparse
import resource
import tempfile
import time

from processes import NoisePainter
from tqdm import tqdm

from synth.dataset.building import DatasetBuilder
from synth.settings import SceneSettings


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-images", type=int, default=200_000)
    args = parser.parse_args()
    settings = SceneSettings(
        template="a {thing}",
        slots={"thing": [f"thing {number}" for number in range(1000)]},
        count=args.num_images,
        batch_size=50,
        shard_size=1000,
        filters={"near_duplicates": 1},
    )
    with tempfile.TemporaryDirectory() as folder, tqdm(total=args.num_images, unit="image") as bar:
        builder = DatasetBuilder(NoisePainter(), settings, folder)  # type: ignore[arg-type]
        started = time.perf_counter()
        for number in builder.missing_shards():
            builder.paint_shard(number, bar)
            # About ten lines in all, whatever the number of images.
            if (number + 1) % (args.num_images // 10_000 or 1) == 0 or number == 0:
                tqdm.write(f"{(number + 1) * 1000:8} rows  peak memory {_peak():.0f} MiB")
        builder.finish(1.0, bar)
        seconds = time.perf_counter() - started
        tqdm.write(f"finished  peak memory {_peak():.0f} MiB, {args.num_images / seconds:.0f} rows/s")


def _peak() -> float:
    """The process's peak memory in MiB, on Linux."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
