"""Pieces of work on a Dask cluster: the tiles of a slide, the images of a folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

from runtime.engines.backends.gpus import VISIBLE, visible_gpus
from runtime.errors import ConfigError, JobError
from runtime.extras import install_command

Piece = TypeVar("Piece")
Result = TypeVar("Result")

LOCAL = "local"

CONNECT_SECONDS = 30
"""How long a scheduler may take to answer."""

RESTART_SECONDS = 600
"""How long a worker that died may take to start again."""

QUEUED_PER_WORKER = 4
"""Pieces that wait for each worker; all of a large job would fill the scheduler."""

_READER = "tifffile"
"""Logger of the package that reads TIFF."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterOptions:
    """Where the pieces of a job are done."""

    cluster: str | None = None
    """None for this process, ``local`` for worker processes of this machine, or the address of a Dask scheduler."""
    workers: int | None = None
    """Processes of a local cluster; None, one for each GPU where the engines run on GPUs, else one for each core."""

    @property
    def remote(self) -> bool:
        """Whether processes of other machines, or with another working directory, may take part."""
        return self.cluster not in (None, LOCAL)


class Engines(Protocol):
    """What every worker loads."""

    def wants_own_gpu(self) -> bool:
        """Whether a process that shares the machine with others should see one GPU alone, which is number 0 there.

        Raises:
            ConfigError: the engines are to run on a GPU of another number.
        """
        ...


def check_cluster(options: ClusterOptions, engines: Engines) -> list[str]:
    """Check what can be known of a cluster before work is sent there.

    Returns:
        The GPUs that the workers share out, as ``CUDA_VISIBLE_DEVICES`` names them; empty where the engines run on
        CPUs, or where the workers are not started from here.

    Raises:
        ConfigError: Dask is not installed; the number of workers is to be that of the GPUs, and none is found; as
            ``Engines.wants_own_gpu``.
    """
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"a cluster needs the package distributed: {install_command('cluster')}.",
            kind="not_installed",
            field="cluster",
        ) from error
    if options.cluster != LOCAL or not engines.wants_own_gpu():
        return []
    gpus = visible_gpus()
    if not gpus and options.workers is None:
        listed = repr(os.environ[VISIBLE]) if VISIBLE in os.environ else "not set"
        raise ConfigError(
            "with a backend of the GPU, a local cluster has one worker for each GPU, and no GPU is found "
            f"({VISIBLE} is {listed}). Make GPUs visible, choose a backend of the CPU, or give the number of workers.",
            kind="missing",
            field="workers",
        )
    return gpus


def run_on_cluster(
    work: Callable[[Piece], Result],
    pieces: Iterable[Piece],
    *,
    failed: Callable[[Piece, BaseException], Result],
    options: ClusterOptions,
    engines: Engines,
) -> Iterator[Result]:
    """Do pieces of work on a cluster; results come in any order. A piece whose worker dies is done by another one.

    Args:
        work: can be pickled; the paths that it knows must be the same on all workers.
        pieces: what to do; taken as workers get free.
        failed: the result of a piece whose work raised an error, or several of whose workers died; may raise.
        options: which cluster.
        engines: those that ``work`` loads.

    Raises:
        ConfigError: as ``check_cluster``.
        JobError: the cluster cannot be reached, or is lost.
    """
    gpus, cluster = check_cluster(options, engines), options.cluster
    assert cluster is not None, "without a cluster, the caller does the work"
    from distributed import Client, as_completed

    if not logging.getLogger().isEnabledFor(logging.INFO):
        # Dask sets its own level when it is imported, and tells of every worker that comes and goes.
        logging.getLogger("distributed").setLevel(logging.WARNING)
    with ExitStack() as stack:
        address = stack.enter_context(_local_cluster(options.workers, gpus)) if cluster == LOCAL else cluster
        try:
            client = stack.enter_context(Client(address, set_as_default=False, timeout=CONNECT_SECONDS))
        except (OSError, ValueError) as error:
            raise JobError(
                f"cluster {cluster} cannot be reached ({error}); check its address.", kind="not_found", field="cluster"
            ) from error
        stack.enter_context(_level_of_readers(client))
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


@contextmanager
def _level_of_readers(client: Any) -> Iterator[None]:
    """The workers log as little of what tifffile says of files as this process does, those too that come later."""
    from distributed import WorkerPlugin

    wanted = logging.getLogger(_READER).level

    class Level(WorkerPlugin):  # type: ignore[misc]  # Dask is not looked into
        name = f"{_READER}-{client.id}"

        def setup(self, worker: Any) -> None:
            self.before = logging.getLogger(_READER).level
            logging.getLogger(_READER).setLevel(wanted)

        def teardown(self, worker: Any) -> None:
            logging.getLogger(_READER).setLevel(self.before)

    client.register_plugin(Level())
    try:
        yield
    finally:
        if client.status == "running":  # a cluster that was lost is not asked
            client.unregister_worker_plugin(Level.name)


@contextmanager
def _local_cluster(workers: int | None, gpus: Sequence[str]) -> Iterator[Any]:
    """Processes of this machine. Given GPUs, each process sees one of them; more processes share them in turn."""
    import dask
    from distributed import LocalCluster, Nanny

    class GpuNanny(Nanny):  # type: ignore[misc]  # Dask is not looked into
        """Keeps the environment of its worker: one that dies is started again with the same GPU."""

        def __init__(self, *arguments: Any, name: int, **options: Any) -> None:
            super().__init__(*arguments, name=name, env={VISIBLE: gpus[name % len(gpus)]}, **options)

    if gpus:
        workers = workers or len(gpus)
        _log.info("%d workers on the GPUs %s", workers, ", ".join(gpus))
    nanny = GpuNanny if gpus else Nanny
    # Dask gives up for good on a worker that is not back by then: with none left, the job would wait forever.
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": f"{RESTART_SECONDS}s"}),
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, worker_class=nanny, dashboard_address=None
        ) as cluster,
    ):
        yield cluster
