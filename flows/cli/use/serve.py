"""`distillery serve`: model files over HTTP."""

import os
from functools import partial

import click

from flows.cli.options import provider_option, refuse_without_effect
from flows.cli.results import network_of, print_line


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Listen on this address; 0.0.0.0 is all networks."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Listen on this port; 0 takes a free one.",
)
@click.option(
    "--token",
    envvar="DISTILLERY_TOKEN",
    show_envvar=True,
    help="Require this token from clients. Prefer the environment variable: lists of processes do not show it.",
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="Without a token: another name by which clients ask for this server.",
)
@click.option(
    "--max-side", type=click.IntRange(1), default=16_384, show_default=True, help="Refuse images longer than this."
)
@click.option(
    "--max-aspect", type=click.FloatRange(1), default=50.0, show_default=True, help="Refuse images narrower than 1:N."
)
@click.option(
    "--max-megapixels",
    type=click.FloatRange(0, 178, min_open=True),
    default=64.0,
    show_default=True,
    help="Refuse images of more pixels than this.",
)
@click.option(
    "--max-upload",
    type=click.FloatRange(0, 1024, min_open=True),
    default=64.0,
    show_default=True,
    metavar="MIB",
    help="Refuse requests larger than this.",
)
@click.option(
    "--allowed-origin",
    "allowed_origins",
    multiple=True,
    metavar="ORIGIN",
    help="Let another site's pages use the server, such as https://app.example (CORS); with a token, * is all sites.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    help="Run the network on this many CPU threads. (default: the cores that the machine or container gives)",
)
@provider_option
def serve(
    models: tuple[str, ...],
    host: str,
    port: int,
    token: str | None,
    allowed_hosts: tuple[str, ...],
    max_side: int,
    max_aspect: float,
    max_megapixels: float,
    max_upload: float,
    allowed_origins: tuple[str, ...],
    threads: int | None,
    provider: str | None,
) -> None:
    """Serve model files over HTTP: POST an image to /v1/translate and get it back edited. Needs no torch.

    MODEL is a file or hf://owner/name; NAME=MODEL gives it another name. The pointer that finished runs move,
    NAME.latest.json, is followed: a new model is served without a restart. Ctrl-C finishes accepted requests first.

    \b
    distillery serve runs/sofas.latest.json
    distillery serve runs/sofas/model.onnx runs/flowers/model.onnx
    curl -F image=@room.jpg "http://127.0.0.1:8000/v1/translate?model=sofas&edit=red-leather" -o edited.png
    """
    from inference.server.app import create_app
    from inference.server.limits import Limits
    from inference.server.run import listen
    from inference.server.run import serve as answer
    from inference.server.served import load_models
    from synth.cpu import num_threads

    if token is None and "DISTILLERY_TOKEN" in os.environ:
        token = ""  # click takes an empty variable for none; whoever sets one means to have a token
    if token is not None:
        refuse_without_effect(("allowed_hosts",), "with a token, with which any name will do")
    limits = Limits(
        max_bytes=int(max_upload * 2**20),
        max_pixels=int(max_megapixels * 1e6),
        max_side=max_side,
        max_aspect=max_aspect,
    )
    tell = partial(print_line, err=True)
    # Listen first: a port that is taken is refused before the models are loaded.
    with listen(host, port) as listener:
        translators = load_models(models, [provider] if provider else None, threads or num_threads(), tell)
        app = create_app(translators, limits, token, [host, *allowed_hosts], allowed_origins)
        for name, translator in translators.items():
            edits = ", ".join(translator.edits)
            print_line(f"{name}: {edits} (on {translator.providers[0]}{network_of(translator)})", err=True)
        if token is None and host not in ("127.0.0.1", "localhost", "::1"):
            print_line("warning: open to the network without a token: set DISTILLERY_TOKEN", err=True)
        answer(app, listener, tell)
