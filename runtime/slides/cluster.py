"""The batches of a job on a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from typing import Any

from runtime.errors import ConfigError, JobError
from runtime.slides.work import BatchDone, TileWork

LOCAL = "local"

CONNECT_SECONDS = 30
"""How long a scheduler may take to answer."""

QUEUED_PER_WORKER = 4
"""Batches that wait for each worker; all of a large slide would fill the scheduler."""


def run_on_cluster(
    work: TileWork, batches: Iterable[int], *, cluster: str, workers: int | None = None
) -> Iterator[BatchDone]:
    """Run batches on a cluster, in any order. A batch whose worker dies is run by another one.

    Args:
        work: the job; its directory and the slide must have the same paths on all workers.
        batches: what to run.
        cluster: ``local`` for processes of this machine, else the address of a scheduler.
        workers: processes of a local cluster; default, as many as there are cores.

    Raises:
        ConfigError: Dask is not installed.
        JobError: the cluster cannot be reached, or the disk is full.
    """
    try:
        from distributed import Client, LocalCluster, as_completed
    except ImportError as error:
        raise ConfigError("a cluster needs the package distributed: pip install 'cellsam-engine[cluster]'.") from error
    with ExitStack() as stack:
        if cluster == LOCAL:
            address: Any = stack.enter_context(
                LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None)
            )
        else:
            address = cluster
        try:
            client = stack.enter_context(Client(address, set_as_default=False, timeout=CONNECT_SECONDS))
        except OSError as error:
            raise JobError(f"cluster {cluster} cannot be reached ({error}); check its address.") from error
        waiting = iter(batches)

        def submit(batch: int) -> Any:
            # Not pure: a batch of an earlier run must not stand for this one.
            return client.submit(work.run, batch, key=f"tiles-{client.id}-{batch}", pure=False)

        of: dict[str, int] = {}
        running = as_completed(loop=client.loop)

        def fill() -> None:
            slots = max(1, sum(client.nthreads().values()))  # workers come and go
            for batch in islice(waiting, max(0, QUEUED_PER_WORKER * slots - len(of))):
                future = submit(batch)
                of[future.key] = batch
                running.add(future)

        fill()
        for future in running:
            yield _outcome(work, of.pop(future.key), future)
            future.release()
            fill()


def _outcome(work: TileWork, batch: int, future: Any) -> BatchDone:
    """What a task returned; its tiles have failed where it did.

    Raises:
        JobError: the disk is full.
    """
    error = future.exception()
    if error is None:
        done: BatchDone = future.result()
        return done
    if isinstance(error, JobError):
        raise error
    # Such as Dask's own KilledWorker, after several workers died of it.
    places = work.places(batch)
    return BatchDone(batch, len(places), 0, tuple((place, f"{type(error).__name__}: {error}") for place in places))
