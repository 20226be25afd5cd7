"""`distillery serve`: model files over HTTP."""

import click

from flows.cli.options import provider_option
from flows.cli.results import print_line


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
@provider_option
def serve(models: tuple[str, ...], host: str, port: int, token: str | None, provider: str | None) -> None:
    """Serve model files over HTTP: POST an image to /v1/translate and get it back edited. Needs no torch.

    MODEL is a file or hf://owner/name; NAME=MODEL gives it another name. Ctrl-C finishes accepted requests first.

    \b
    distillery serve runs/sofas/model.onnx runs/flowers/model.onnx
    curl -F image=@room.jpg "http://127.0.0.1:8000/v1/translate?model=sofas&edit=red-leather" -o edited.png
    """
    from inference import server

    # Listen first: a port that is taken is refused before the models are loaded.
    with server.listen(host, port) as listener:
        translators = server.load_models(models, [provider] if provider else None)
        app = server.create_app(translators, token=token)
        for name, translator in translators.items():
            print_line(f"{name}: {', '.join(translator.edits)} (on {translator.providers[0]})", err=True)
        if token is None and host not in ("127.0.0.1", "localhost", "::1"):
            print_line("warning: open to the network without a token: set DISTILLERY_TOKEN", err=True)
        server.serve(app, listener, lambda line: print_line(line, err=True))
