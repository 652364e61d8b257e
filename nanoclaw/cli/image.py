"""nanoclaw image: make the image that agents run from, or say whether it is there."""

import json
import os
from typing import Annotated, Any

import typer

from nanoclaw.config import load

EXIT_NOT_CURRENT = 3

app = typer.Typer(help="The image that agents run from.", no_args_is_help=True)


@app.command("build")
def build() -> None:
    """Make the agent image where it is missing or stale; else do nothing."""
    typer.echo(make())


def make() -> str:
    """Do it, with its steps on stderr; the image's name and id. Raises SandboxError, ConfigError."""
    from nanoclaw.sandbox import engine, image

    config = load(os.environ)
    address = engine.address_of(os.environ, config.engine)
    with engine.explained(address):
        made = image.ensure_image(
            engine.connect(address),
            config.image,
            root=image.resources(),
            environ=os.environ,
            base=config.base_image,
            progress=lambda line: typer.echo(line, err=True),
        )
    return f"{config.image}: {made}"


@app.command("status")
def status(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Say whether the image is there and made from these very files. Exit code 3: it is not."""
    from nanoclaw.sandbox import engine, image

    config = load(os.environ)
    address = engine.address_of(os.environ, config.engine)
    wanted = image.build_hash(image.resources(), config.base_image)
    with engine.explained(address):
        found = image.find_image(engine.connect(address), config.image, wanted)
    told = {"image": config.image, "build": wanted, "id": found, "current": bool(found)}
    typer.echo(json.dumps(told) if as_json else _sentence(told))
    if not found:
        raise typer.Exit(EXIT_NOT_CURRENT)


def _sentence(told: dict[str, Any]) -> str:
    if told["current"]:
        return f"{told['image']} is current (build {told['build']})"
    return f"{told['image']} is missing or stale: `nanoclaw image build` makes it"
