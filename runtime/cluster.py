"""Pieces of work on a Dask cluster: the tiles of a slide, the images of a folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack
from itertools import islice
from typing import Any, TypeVar

from runtime.errors import ConfigError, JobError

Piece = TypeVar("Piece")
Result = TypeVar("Result")

LOCAL = "local"

CONNECT_SECONDS = 30
"""How long a scheduler may take to answer."""

QUEUED_PER_WORKER = 4
"""Pieces that wait for each worker; all of a large job would fill the scheduler."""


def check_cluster() -> None:
    """Raises:
    ConfigError: Dask is not installed.
    """
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise ConfigError("a cluster needs the package distributed: pip install 'cellsam-engine[cluster]'.") from error


def run_on_cluster(
    work: Callable[[Piece], Result],
    pieces: Iterable[Piece],
    *,
    failed: Callable[[Piece, BaseException], Result],
    cluster: str,
    workers: int | None = None,
) -> Iterator[Result]:
    """Do pieces of work on a cluster; results come in any order. A piece whose worker dies is done by another one.

    Args:
        work: can be pickled; the paths that it knows must be the same on all workers.
        pieces: what to do; taken as workers get free.
        failed: the result of a piece whose work raised an error, or several of whose workers died; may raise.
        cluster: ``local`` for processes of this machine, else the address of a scheduler.
        workers: processes of a local cluster; default, as many as there are cores.

    Raises:
        ConfigError: Dask is not installed.
        JobError: the cluster cannot be reached, or is lost.
    """
    check_cluster()
    from distributed import Client, LocalCluster, as_completed

    if not logging.getLogger().isEnabledFor(logging.INFO):
        # Dask sets its own level when it is imported, and tells of every worker that comes and goes.
        logging.getLogger("distributed").setLevel(logging.WARNING)
    with ExitStack() as stack:
        if cluster == LOCAL:
            address: Any = stack.enter_context(
                LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None)
            )
        else:
            address = cluster
        try:
            client = stack.enter_context(Client(address, set_as_default=False, timeout=CONNECT_SECONDS))
        except (OSError, ValueError) as error:
            raise JobError(f"cluster {cluster} cannot be reached ({error}); check its address.") from error
        waiting = enumerate(pieces)
        of: dict[str, Piece] = {}
        running = as_completed(loop=client.loop)

        def fill() -> None:
            slots = max(1, sum(client.nthreads().values()))  # workers come and go
            for number, piece in islice(waiting, max(0, QUEUED_PER_WORKER * slots - len(of))):
                # Not pure: a piece of an earlier run must not stand for this one.
                future = client.submit(work, piece, key=f"piece-{client.id}-{number}", pure=False)
                of[future.key] = piece
                running.add(future)

        fill()
        for future in running:
            try:
                piece, raised = of.pop(future.key), future.exception()
            except CancelledError as lost:
                raise JobError(
                    f"cluster {cluster} was lost ({lost}); what was finished is kept. Run again to go on."
                ) from lost
            # An error may be Dask's own KilledWorker, after several workers died of a piece.
            yield future.result() if raised is None else failed(piece, raised)
            future.release()
            fill()
