"""A run's two pages, the report and the model card, which are written together when what they show has changed.

`stages.json` keeps a fingerprint of what they show. So they are as new as the run, whichever command has worked on
it, and after a kill too.
"""

from flows.config.naming import digest
from flows.config.schema import Recipe
from flows.config.toml import to_toml
from flows.reports.model_card import write_model_card
from flows.reports.report import write_report
from flows.run.folder import RunFolder
from flows.run.promotion import read_verdict

_STAGE = "report"


def write_pages(recipe: Recipe, run: RunFolder) -> bool:
    """Write report.html and README.md into an exported run, unless they show it as it is now.

    Returns:
        Whether they were written.

    Raises:
        DistilleryError: if a file that they show is damaged.
    """
    shown = _shown(recipe, run)
    if run.is_done(_STAGE, shown, run.report, run.card):
        return False
    write_report(recipe, run.path)
    write_model_card(recipe, run.path)
    run.mark_done(_STAGE, shown)
    return True


def _shown(recipe: Recipe, run: RunFolder) -> str:
    """The fingerprint of what the pages show; measures on other splits are not among it."""
    stages = ("distill", "compress", "export", f"export {run.pixel_model.name}", "evaluate")
    verdict = read_verdict(run).why if run.promotion.exists() else ""
    return digest(to_toml(recipe), [run.fingerprint_of(stage) for stage in stages], verdict, run.seconds())
