"""A dataset of this project as tars of webdataset: 000000000.png, .txt with its prompt and .json with all else.

pip install datasets webdataset
python webdataset_tars.py sets/sofas tars [images a tar]
"""

import sys

import datasets
import webdataset


def main(folder: str, tars: str, images_per_tar: str = "1000") -> None:
    """Write the set in `folder` into `tars`, a folder that exists."""
    # Streamed, for the cache of `datasets` knows a local set by its folder's name alone.
    rows = datasets.load_dataset(folder, split="train", streaming=True)
    rows = rows.cast_column("image", datasets.Image(decode=False))
    with webdataset.ShardWriter(f"{tars}/%05d.tar", maxcount=int(images_per_tar), verbose=0) as writer:
        for number, row in enumerate(rows):
            image = row.pop("image")["bytes"]  # the very bytes: nothing is encoded anew
            writer.write({"__key__": f"{number:09d}", "png": image, "txt": row["prompt"], "json": row})


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(*sys.argv[1:])
