"""Load test of the server: many clients at once, with the latency of each kind of request, memory and equal results.

    python -m benchmarks.serve_load                                 # 16 clients, 2000 requests; a minute
    python -m benchmarks.serve_load --requests 200 --settle 50 --every 25

The server is a separate process, started by ``cellsam-engine serve`` with the built-in model. Most requests are boxes
in cached embeddings; some encode an image, segment one, or are damaged. Before the load, one client measures the first
box of an image and the ones after it.

The run passes if every result equals the first one of its kind, damaged requests get 4xx, no request fails, and the
server's memory grows by no more than 1 % after the settling time.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import percentiles_ms, write_record
from benchmarks.resident import LIMIT, Readings
from benchmarks.server_process import ServerProcess
from runtime.engines.builtin import sample_images
from runtime.files.plain import read_image
from runtime.server.client import Cells, Client, ServerError

SHARES = {"boxes": 0.9, "encode": 0.05, "segment": 0.03, "damaged": 0.02}
"""Shares of the kinds of requests."""

SIDE_PX = 128
"""Side of the images, so that a load on a CPU takes minutes."""

IMAGES = 8


@dataclass(slots=True)
class Load:
    """State of a load test."""

    address: str
    images: list[NDArray[Any]]
    times: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in SHARES})
    expected: dict[tuple[str, int], Any] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    done: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def request(self, client: Client, kind: str, number: int) -> None:
        """Make a request, and compare its result with the first one of its kind and image."""
        place = number % len(self.images)
        start = time.perf_counter()
        try:
            result = self._result(client, kind, place)
        except ServerError as error:
            result = error.status
        seconds = time.perf_counter() - start
        with self.lock:
            self.done += 1
            self.times[kind].append(seconds)
            if not 200 <= (result if isinstance(result, int) else 200) < 300 and kind != "damaged":
                self.outcomes["failed"] += 1
            elif self.expected.setdefault((kind, place), result) != result:
                self.outcomes["unlike the first"] += 1
            elif kind == "damaged" and not (isinstance(result, int) and 400 <= result < 500):
                self.outcomes["damaged, but not rejected"] += 1

    def _result(self, client: Client, kind: str, place: int) -> Any:
        image = self.images[place]
        if kind == "boxes":
            return described(client.boxes(client.encode(image), boxes_of(place)))
        if kind == "encode":
            return client.encode(image).size_hw
        if kind == "segment":
            return described(client.cells(image))
        return client.labels(b"\x89PNG\r\n\x1a\n damaged").shape


def described(cells: Cells) -> tuple[Any, ...]:
    """Return what must be equal in all results of the same request: whole numbers, which do not feel rounding."""
    return tuple(cells.column("label_area_px")), tuple(cells.column("label"))


def boxes_of(place: int) -> NDArray[np.float64]:
    """Return the boxes of an image, always the same ones."""
    random = np.random.default_rng(place)
    corner = random.uniform(0, SIDE_PX - 40, (1 + place % 4, 2))
    return np.hstack((corner, corner + random.uniform(15, 40, corner.shape)))


def make_images() -> list[NDArray[Any]]:
    """Cut images out of a sample."""
    path = next(one for one in sample_images() if one.name.startswith("fluorescence"))
    sample = read_image(path)
    random = np.random.default_rng(0)
    corners = random.integers(0, min(sample.shape) - SIDE_PX, (IMAGES, 2)).tolist()
    return [np.ascontiguousarray(sample[y : y + SIDE_PX, x : x + SIDE_PX]) for y, x in corners]


def first_and_next(client: Client, runs: int) -> dict[str, Any]:
    """Measure the first box of an image, which pays the encoder, and the boxes after it, of one client."""
    path = next(one for one in sample_images() if one.name.startswith("u2os"))
    image = read_image(path)
    height, width = image.shape[:2]
    start = time.perf_counter()
    embedding = client.encode(image)
    client.boxes(embedding, [[20, 20, 60, 60]])
    first = time.perf_counter() - start
    times = []
    random = np.random.default_rng(0)
    for _ in range(runs):
        x, y = random.uniform(0, [width - 50, height - 50])
        start = time.perf_counter()
        client.boxes(embedding, [[x, y, x + 40, y + 40]])
        times.append(time.perf_counter() - start)
    return {"image_hw": [height, width], "first_ms": round(first * 1e3, 1), "next_ms": percentiles_ms(times)}


def run_load(load: Load, pid: int, options: argparse.Namespace) -> Readings:
    """Send all requests, and read the server's memory at intervals."""
    random = np.random.default_rng(1)
    kinds = random.choice(list(SHARES), options.requests, p=list(SHARES.values())).tolist()
    readings = Readings()
    local = threading.local()

    def send(number: int) -> None:
        if not hasattr(local, "client"):
            local.client = Client(load.address)
        load.request(local.client, kinds[number], number)

    with ThreadPoolExecutor(options.clients) as pool:
        for start in range(0, options.requests, options.every):
            list(pool.map(send, range(start, min(start + options.every, options.requests))))
            readings.done.append(load.done)
            readings.resident_mib.append(round(resident_mib(pid), 2))
            readings.descriptors.append(len(list(Path(f"/proc/{pid}/fd").iterdir())))
            readings.threads.append(len(list(Path(f"/proc/{pid}/task").iterdir())))
    return readings


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the load test; return its record."""
    with ServerProcess("serve", "--backend", options.backend) as server, Client(server.address) as client:
        health = client.health()
        alone = first_and_next(client, options.boxes)
        load, start = Load(server.address, make_images()), time.perf_counter()
        readings = run_load(load, server.pid, options)
        seconds = time.perf_counter() - start
        waiting = client.health()["queue"]["waiting"]
    memory = readings.summary(options.settle)
    grown = memory["growth"]
    return {
        "model": health["model"],
        "backend": health["backend"],
        "clients": options.clients,
        "requests": load.done,
        "seconds": round(seconds, 1),
        "requests_per_second": round(load.done / seconds, 1),
        "one_client": alone,
        "kinds": {
            kind: {"count": len(times), "ms": percentiles_ms(times)} for kind, times in load.times.items() if times
        },
        "outcomes": dict(load.outcomes),
        "memory": memory,
        "growth_limit": LIMIT,
        "passed": not load.outcomes and grown <= LIMIT and waiting == 0,
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--boxes", type=int, default=50, help="boxes of the measurement with one client")
    parser.add_argument("--every", type=int, default=50, help="requests between readings of memory")
    parser.add_argument("--settle", type=int, default=500, help="requests until memory must be constant")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the load test, print a summary and write the record; return exit code 1 if it failed."""
    options = parse(arguments)
    found = measure(options)
    memory, boxes = found["memory"], found["kinds"]["boxes"]["ms"]
    lines = (
        f"{found['requests']} requests of {found['clients']} clients in {found['seconds']} s on {found['backend']}",
        f"one client: first box {found['one_client']['first_ms']} ms, next {found['one_client']['next_ms']}",
        f"boxes of all clients: {boxes}",
        f"memory {memory['resident_mib']['median']} MiB, growth {memory['growth']:.2%}",
        f"failures: {found['outcomes'] or 'none'}",
        "passed" if found["passed"] else "FAILED",
    )
    print(*lines, sep="\n")  # noqa: T201
    print(write_record(options.out, "serve_load", found))  # noqa: T201
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
