"""Run the paper's studies piece by piece: rows as Parquet, a plot and a finding."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from distill.settings import EditSettings
from flows.config.naming import digest
from flows.evaluation.pieces import Pieces, write_rows
from flows.evaluation.zero_shot import find_images
from synth.errors import RunError
from synth.files import write_bytes

if TYPE_CHECKING:
    from distill.studies.study import Study
    from synth.teacher.teacher import Teacher


def make_study(
    name: str,
    settings: EditSettings,
    num_scenes: int | None = None,
    images: tuple[Path, ...] = (),
    prompt: str = "",
    source_prompt: str = "",
    folder: Path | None = None,
    num_steps: int | None = None,
) -> "Study":
    """Make a study by its name.

    Args:
        name: the command's name for it.
        settings: for the zero-shot edits.
        num_scenes: drawn scenes per edit (default: the study's).
        images: files or folders, for real-images only.
        prompt: what the edited images should show.
        source_prompt: what the images show.
        folder: where the study ablations keeps the dataset that it paints.
        num_steps: the steps of each of translator's trainings (default: the study's).

    Raises:
        RunError: for real-images without images or prompt.
    """
    from distill.studies.ablations import Ablations
    from distill.studies.benchmark import Sweep
    from distill.studies.guidance_bias import GuidanceBias
    from distill.studies.leakage import Leakage
    from distill.studies.optimizer import Optimizer
    from distill.studies.real_images import RealImages
    from distill.studies.regularized_sds import RegularizedSDS
    from distill.studies.steps import Steps

    if name == "real-images":
        if not images or not prompt.strip():
            raise RunError("the study real-images edits your own images: name them, and give --prompt")
        return RealImages(settings, tuple(find_images(images)), prompt, source_prompt)
    scenes = {} if num_scenes is None else {"num_scenes": num_scenes}
    if name == "ablations":
        assert folder is not None, "it paints a dataset"
        return Ablations(folder, **scenes, **({} if num_steps is None else {"num_steps": num_steps}))
    if name == "guidance-bias":  # it optimises nothing
        return GuidanceBias(**scenes)
    if name == "sweep":  # it chooses the settings
        return Sweep(**scenes)
    of_edits: dict[str, Callable[..., Study]] = {
        "steps": Steps,
        "optimizer": Optimizer,
        "regularized-sds": RegularizedSDS,
        "leakage": Leakage,
    }
    return of_edits[name](settings, **scenes)


def run_study(study: "Study", teacher: "Teacher", out: Path) -> str:
    """Compute a study's missing pieces, then write `rows.parquet`, `plot.png` and `finding.txt` into `out`.

    Returns:
        The finding.

    Raises:
        RunError: if another study's pieces are in `out`, or damaged ones.
        DistilleryError: if an edit fails.
    """
    from synth.images.encoding import png_bytes

    teacher.require_scorer()
    pieces = Pieces(
        out / "pieces",
        digest(teacher.fingerprint, study.name, repr(study)),
        results=("rows.parquet", "plot.png", "finding.txt"),
    )
    measured = [
        pieces.measured(unit, partial(study.measure, teacher, unit))
        for unit in tqdm(study.units(), desc=study.name, unit="piece")
    ]
    listed = write_rows(out / "rows.parquet", measured)
    write_bytes(out / "plot.png", png_bytes(study.plot(listed)))
    finding = study.finding(listed)
    write_bytes(out / "finding.txt", f"{study.question}\n{finding}\n".encode())
    return finding
