"""Processing of a stream of items in threads, with ordered results and bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def worker_threads(*, on_gpu: bool) -> int:
    """Return the number of threads that keep the engines of a process busy.

    Each thread reads, prepares and assembles images between its calls of the engines. On a GPU that work is most of an
    image's time, so every core has a thread, up to 8; at least 2, so that one can wait for the GPU. Engines on the CPU
    use all cores themselves: 2 threads, so that one reads while the other computes.

    Args:
        on_gpu: whether the engines run on a GPU.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(2, cores)) if on_gpu else 2


def in_order(
    work: Callable[[list[Item]], list[Result]], items: Iterable[Item], *, together: int, workers: int
) -> Iterator[Result]:
    """Yield the results of ``work`` on groups of items, in their order.

    At most ``2 workers`` groups are taken from ``items`` ahead of their results. If ``work`` raises an exception, it is
    raised when the first result of the group is due; groups that wait behind it are not started.

    Args:
        work: called in a thread with ``together`` items; the last group may have fewer.
        items: read in the caller's thread.
        together: number of items per group.
        workers: number of groups in work at a time.
    """
    source = iter(items)
    waiting: deque[Future[list[Result]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="segment") as pool:
        try:
            while group := list(islice(source, together)):
                waiting.append(pool.submit(work, group))
                if len(waiting) >= 2 * workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
