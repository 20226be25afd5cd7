"""The largest telephones' photographs: 200 megapixels, with at most 20 bytes of memory a pixel."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from peoples_images import exif, rgb_profile
from PIL import Image
from tiny_model import properties, write_model

from synth.images.reader import read_image

pytestmark = pytest.mark.slow
CODE = """
import resource, sys
from pathlib import Path
import numpy as np
from inference.runtime import Translator
from inference.media.translate import Job, translate_image
translator = Translator.load(sys.argv[1], num_threads=1)
translator(np.zeros((64, 64, 3), np.uint8), "red leather")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
translate_image(translator, Job(Path(sys.argv[2]), {"red leather": Path(sys.argv[3])}), 1.0)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize("profile", [None, "Display P3"])
def test_200_megapixels_take_20_bytes_a_pixel(tmp_path: Path, profile: str | None) -> None:
    model = write_model(tmp_path / "model.onnx", properties())
    small = Image.fromarray(np.random.default_rng(0).integers(60, 190, (120, 160, 3), dtype=np.uint8))
    photo = small.resize((16_320, 12_240), Image.Resampling.BILINEAR)
    icc_profile = rgb_profile(profile) if profile else None
    photo.save(tmp_path / "photo.jpg", quality=85, exif=exif(6).tobytes(), icc_profile=icc_profile)
    del photo
    paths = [str(model), str(tmp_path / "photo.jpg"), str(tmp_path / "edited.jpg")]
    run = subprocess.run([sys.executable, "-c", CODE, *paths], capture_output=True, text=True, check=True)
    assert int(run.stdout) / (16_320 * 12_240) <= 20
    edited = read_image(tmp_path / "edited.jpg")
    assert edited.size == (12_240, 16_320) and edited.icc_profile == icc_profile and edited.exif is not None
