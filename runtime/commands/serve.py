"""The command ``serve``: segmentation and correction projects over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from runtime.commands.console import fail, say
from runtime.commands.groups import with_groups
from runtime.commands.options import ModelOptions, ThreadsOption, at_least
from runtime.commands.report import announce_compilation
from runtime.commands.settings import backend_options, engine_directory
from runtime.errors import ConfigError, SegmenterError

LIMITS = "Limits"
_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeOptions:
    """Addresses, folders and token of the server."""

    project: Annotated[
        Path | None, typer.Option(help="Correction project to serve.", metavar="DIR", show_default=False)
    ] = None
    root: Annotated[
        Path | None,
        typer.Option(help="Folder with images that requests may name.", metavar="DIR", show_default=False),
    ] = None
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but 127.0.0.1 needs --token.", metavar="ADDRESS")
    ] = "127.0.0.1"
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 takes a free one.", metavar="N", callback=at_least(0))
    ] = 8000
    token: Annotated[
        str | None,
        typer.Option(
            envvar="CELLSAM_TOKEN",
            help="Token that every request must carry.",
            metavar="TOKEN",
            show_default=False,
            show_envvar=True,
        ),
    ] = None
    threads: ThreadsOption = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitOptions:
    """Limits on requests."""

    max_upload: Annotated[
        int,
        typer.Option(
            help="Largest file in a request, MiB.", metavar="MIB", callback=at_least(1), rich_help_panel=LIMITS
        ),
    ] = 256
    max_pixels: Annotated[
        float,
        typer.Option(help="Largest image, megapixels.", metavar="MPX", callback=at_least(0), rich_help_panel=LIMITS),
    ] = 100.0
    queue_size: Annotated[
        int,
        typer.Option(
            "--queue",
            help="Most requests that wait or are in work.",
            metavar="N",
            callback=at_least(1),
            rich_help_panel=LIMITS,
        ),
    ] = 64
    cache: Annotated[
        int,
        typer.Option(
            help="Memory for encoded images, MiB.", metavar="MIB", callback=at_least(0), rich_help_panel=LIMITS
        ),
    ] = 512


@with_groups
def serve_command(options: ServeOptions, model: ModelOptions, limits: LimitOptions) -> None:
    """Segment images and correct projects over HTTP, also for QuPath and Triton clients.

    Prints the address when it is ready; Ctrl-C stops it. Needs the extra
    'serve'. Exit code 1: something failed, 2: wrong usage.
    """
    from runtime.jobs.segmenter_spec import SegmenterSpec
    from runtime.server.options import Limits, ServerOptions
    from runtime.server.run import serve

    announce_compilation()
    try:
        spec = SegmenterSpec(
            engine_dir=engine_directory(model.model),
            backend=model.backend,
            options=backend_options(model, options.threads),
        )
        serve(
            ServerOptions(
                engines=spec,
                host=options.host,
                port=options.port,
                token=options.token,
                root=options.root,
                project=options.project,
                limits=Limits(
                    upload_bytes=limits.max_upload * _MIB,
                    pixels=max(1, round(limits.max_pixels * 1e6)),
                    queue=limits.queue_size,
                    embedding_bytes=limits.cache * _MIB,
                ),
            ),
            lambda address: say(f"cellsam-engine is ready at {address}"),
        )
    except ConfigError as error:
        fail(error, code=2)
    except (SegmenterError, OSError) as error:
        fail(error)
