"""Work on a Dask cluster in pieces, such as the tiles of a slide or the images of a folder."""

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
"""Time limit for a scheduler to answer."""

RESTART_SECONDS = 600
"""Time limit for a worker that died to restart."""

QUEUED_PER_WORKER = 4
"""Queued pieces for each worker; all pieces of a large job would fill the memory of the scheduler."""

_READER = "tifffile"
"""Logger of the package that reads TIFF files."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterOptions:
    """The processes that run the pieces of a job."""

    cluster: str | None = None
    """None for this process, ``local`` for worker processes on this machine, or the address of a Dask scheduler."""
    workers: int | None = None
    """Processes of a local cluster. None means one for each GPU if the engines run on GPUs, else one for each core."""

    @property
    def remote(self) -> bool:
        """Return whether processes may run on other machines or in another working directory."""
        return self.cluster not in (None, LOCAL)


class Engines(Protocol):
    """The engines that each worker loads."""

    def wants_own_gpu(self) -> bool:
        """Return whether each process on a shared machine should see only one GPU, as number 0.

        Raises:
            ConfigError: the engines are configured for a GPU with another number.
        """
        ...


def check_cluster(options: ClusterOptions, engines: Engines) -> list[str]:
    """Check the options of a cluster before sending work to it.

    Returns:
        The GPUs for the workers, as ``CUDA_VISIBLE_DEVICES`` names them. Empty if the engines run on CPUs, or if this
        process does not start the workers.

    Raises:
        ConfigError: Dask is not installed; there should be one worker for each GPU, but no GPU is found; or as
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
            f"no GPU is found ({VISIBLE} is {listed}); with a GPU backend, a local cluster has one worker for each "
            "GPU. Make GPUs visible, choose a CPU backend, or give the number of workers.",
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
    """Run pieces of work on a cluster. If a worker dies, another one repeats its piece.

    Args:
        work: a function that can be pickled; paths inside it must be valid on all workers.
        pieces: the pieces; consumed as workers become free.
        failed: returns the result of a piece if its work raised an error, or if several of its workers died. It may
            raise.
        options: the cluster.
        engines: the engines that ``work`` loads.

    Yields:
        The results, in order of completion.

    Raises:
        ConfigError: as ``check_cluster``.
        JobError: the cluster cannot be reached, or the connection is lost.
    """
    gpus, cluster = check_cluster(options, engines), options.cluster
    assert cluster is not None, "without a cluster, the caller runs the work itself"
    from distributed import Client, as_completed

    if not logging.getLogger().isEnabledFor(logging.INFO):
        # Dask sets its own level when imported, and logs every worker that joins or leaves.
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
                # Not pure: Dask must not return the result of an earlier run.
                future = client.submit(work, piece, key=f"piece-{client.id}-{number}", pure=False)
                of[future.key] = piece
                running.add(future)

        fill()
        for future in running:
            try:
                piece, raised = of.pop(future.key), future.exception()
            except CancelledError as lost:
                raise JobError(
                    f"the connection to cluster {cluster} was lost ({lost}); finished results are kept. "
                    "Run again to resume."
                ) from lost
            # The error may be Dask's KilledWorker, raised after a piece killed several workers.
            yield future.result() if raised is None else failed(piece, raised)
            future.release()
            fill()


@contextmanager
def _level_of_readers(client: Any) -> Iterator[None]:
    """Set the log level of tifffile on all workers, including later ones, to the level of this process."""
    from distributed import WorkerPlugin

    wanted = logging.getLogger(_READER).level

    class Level(WorkerPlugin):  # type: ignore[misc]  # mypy skips Dask
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
        if client.status == "running":  # a lost cluster would not answer
            client.unregister_worker_plugin(Level.name)


@contextmanager
def _local_cluster(workers: int | None, gpus: Sequence[str]) -> Iterator[Any]:
    """Start worker processes on this machine; each sees one of the GPUs, if there are any."""
    import dask
    from distributed import LocalCluster, Nanny

    class GpuNanny(Nanny):  # type: ignore[misc]  # mypy skips Dask
        """Nanny that restarts a dead worker with the same GPU."""

        def __init__(self, *arguments: Any, name: int, **options: Any) -> None:
            super().__init__(*arguments, name=name, env={VISIBLE: gpus[name % len(gpus)]}, **options)

    if gpus:
        workers = workers or len(gpus)
        _log.info("%d workers on the GPUs %s", workers, ", ".join(gpus))
    nanny = GpuNanny if gpus else Nanny
    # Dask drops a worker that has not restarted by this time. Without workers, the job would wait forever.
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": f"{RESTART_SECONDS}s"}),
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, worker_class=nanny, dashboard_address=None
        ) as cluster,
    ):
        yield cluster
