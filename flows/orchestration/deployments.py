"""The deployments of prefect.yaml: the steps that it names, and commands to serve them and to restart crashed runs.

    prefect deploy --all                                   registers them; workers run them
    python -m flows.orchestration.deployments serve        registers them and runs them without a worker
    python -m flows.orchestration.deployments automate     lets the server restart crashed runs

prefect.yaml is the only list of the deployments. The packages of the pipeline are imported once a command runs, so
that one that is missing, or whose settings are wrong, is an error in one line.
"""

import os
from pathlib import Path
from typing import Any

import click

from flows.command_line import OneLineErrors
from flows.orchestration.proxies import bypass_proxies
from flows.orchestration.server_status import check_settings

ROOT = Path(__file__).parents[2]


def enter_checkout() -> dict[str, str]:
    """Change to the folder that relative paths start from: DISTILLERY_HOME (default: the checkout).

    A pull step of prefect.yaml, which a worker takes before each run.
    """
    home = Path(os.environ.get("DISTILLERY_HOME", ROOT)).expanduser()
    home.mkdir(parents=True, exist_ok=True)
    os.chdir(home)
    return {"directory": str(home)}


def read_recipes() -> dict[str, dict[str, Any]]:
    """Read all resolved recipes, so that the form in the UI shows every value. A build step of prefect.yaml."""
    from flows.config.loading import load_recipe, recipe_names

    return {name: load_recipe(name).model_dump(mode="json") for name in recipe_names()}


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Serve the deployments of prefect.yaml without a worker, or restart crashed runs."""
    bypass_proxies()
    check_settings()


@main.command("serve")
@click.option(
    "--limit", type=click.IntRange(1), default=1, show_default=True, help="Maximum number of runs at a time."
)
def _serve_command(limit: int) -> None:
    """Register all deployments and run them from this process, until Ctrl-C.

    \b
    python -m flows.orchestration.deployments serve
    """
    from flows.orchestration.registration import require_server, serve

    require_server()  # before a folder is made
    enter_checkout()
    serve(read_recipes(), limit)


@main.command("automate")
@click.option(
    "--seconds",
    type=click.IntRange(90),
    default=300,
    show_default=True,
    help="Silence after which a run counts as crashed.",
)
def _automate_command(seconds: int) -> None:
    """Let the server find runs whose process is gone, and schedule them again.

    \b
    python -m flows.orchestration.deployments automate
    """
    from flows.orchestration.registration import automate

    for name in automate(seconds):
        click.echo(name)


if __name__ == "__main__":
    main()
