r"""Encoders in 8-bit integers on the CPU: time compared with float32 and bfloat16, and changes of features and labels.

    python -m benchmarks.int8
    python -m benchmarks.int8 --model engines --calibrate nuclei.png --calibrate tissue.png --without-labels

The encoders are quantised into a temporary directory, as ``export --precision int8`` does; box detector and mask
decoder are unchanged. The measurements use the sample images, and the ranges come from another image unless
``--calibrate`` names some of them.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.agreement import measure_agreement
from benchmarks.measure import percentiles_ms, write_record
from export.quantised import constant_products, encoder_inputs, quantise_encoders
from export.sample_image import verification_image
from runtime import BackendOptions, Segmenter
from runtime.commands.settings import model_directory
from runtime.engines.backends.base import CpuPrecision
from runtime.engines.backends.load import load_engine
from runtime.engines.builtin import builtin_engine, sample_images
from runtime.engines.manifest import read_manifest
from runtime.files.plain import read_image
from runtime.types import F32

Image = NDArray[np.generic]


@dataclass(frozen=True)
class Way:
    """One way to run the engines."""

    backend: str
    rest: CpuPrecision
    """Precision of the parts that are not in integers."""
    int8: bool = False


WAYS = {
    "onnxruntime, fp32": Way("cpu", "auto"),
    "onnxruntime, int8": Way("cpu", "auto", int8=True),
    "OpenVINO, fp32": Way("openvino", "fp32"),
    "OpenVINO, bf16": Way("openvino", "bf16"),
    "OpenVINO, int8 and fp32": Way("openvino", "fp32", int8=True),
    "OpenVINO, int8 and bf16": Way("openvino", "bf16", int8=True),
}
"""Ways to run the engines; the others are compared with the first."""


def quantise_directory(directory: Path, out: Path, images: Sequence[Image]) -> None:
    """Write a copy of an engine directory with encoders that compute in integers.

    Args:
        directory: float32 engines.
        out: directory to create.
        images: images that the ranges are taken from.
    """
    shutil.copytree(directory, out)
    quantise_encoders(out, images)


def count_products(directory: Path) -> int:
    """Count the products of float32 encoders that quantisation would convert to integers."""
    files = {name: directory / spec.file for name, spec in read_manifest(directory).engines.items()}
    return sum(len(constant_products(onnx.load(path))) for name, path in files.items() if name.endswith("encoder"))


def measure_encoder(
    ways: Mapping[str, Way],
    directories: Mapping[bool, Path],
    pixels: F32,
    *,
    threads: int | None = None,
    warmup: int,
    runs: int,
) -> list[dict[str, Any]]:
    """Time the encoder in turn, and compare its outputs with those of the first way.

    Args:
        ways: ways to run the engines, by name.
        directories: directories of the original engines (False) and of those in integers (True).
        pixels: (1, 3, S, S) float32.
        threads: threads of each engine; by default the backend's choice.
        warmup: uncounted runs of each way, besides the one whose outputs are compared.
        runs: counted runs of each way.

    Returns:
        For each way, percentiles in ms of the wall time and of the processor time of all threads, and the norm of each
        output's difference relative to the norm of the output.
    """
    encoders = {}
    for name, way in ways.items():
        spec = read_manifest(directories[way.int8]).engines["encoder"]
        options = BackendOptions(cpu_precision=way.rest, threads=threads)
        path = directories[way.int8] / spec.file
        encoders[name] = load_engine(path, spec, backend=way.backend, options=options)
    outputs = {name: encoder({"pixel_values": pixels}) for name, encoder in encoders.items()}
    reference = next(iter(outputs.values()))
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(warmup + runs):
        for name, encoder in encoders.items():
            start = time.perf_counter(), time.process_time()
            encoder({"pixel_values": pixels})
            if turn >= warmup:
                spent[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return [
        {
            "way": name,
            "ms": percentiles_ms([elapsed for elapsed, _ in spent[name]]),
            "processor_ms": percentiles_ms([processor for _, processor in spent[name]]),
            "relative_error": {
                output: float(f"{np.linalg.norm(found - reference[output]) / np.linalg.norm(reference[output]):.3g}")
                for output, found in outputs[name].items()
            },
        }
        for name in ways
    ]


def measure_labels(ways: Mapping[str, Way], directories: Mapping[bool, Path]) -> list[dict[str, Any]]:
    """Compare the cells of each way with those of the first (``benchmarks.agreement.measure_agreement``)."""
    segmenters = {
        name: Segmenter(directories[way.int8], backend=way.backend, options=BackendOptions(cpu_precision=way.rest))
        for name, way in ways.items()
    }
    return measure_agreement(segmenters)


def content_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the content of the record."""
    ways = {name: way for name, way in WAYS.items() if way.backend in options.backend}
    images = [read_image(path) for path in options.calibrate] or [verification_image()]
    manifest = read_manifest(options.engines)
    with tempfile.TemporaryDirectory() as temporary:
        directories = {False: options.engines, True: Path(temporary) / "int8"}
        quantise_directory(options.engines, directories[True], images)
        pixels = encoder_inputs(options.engines, [read_image(sample_images()[0])])["encoder"][0]
        encoder = measure_encoder(
            ways, directories, pixels, threads=options.threads, warmup=options.warmup, runs=options.runs
        )
        labels = measure_labels(ways, directories) if options.labels else []
        file = manifest.engines["encoder"].file
        sizes = {name: (directories[int8] / file).stat().st_size for name, int8 in (("fp32", False), ("int8", True))}
    return {
        "model": dict(manifest.model),
        "image_size": manifest.image_size,
        "calibrated_on": [path.name for path in options.calibrate] or "the built-in verification image",
        "products_in_integers": count_products(options.engines),
        "encoder_mib": {name: round(size / 2**20, 1) for name, size in sizes.items()},
        "threads": options.threads,
        "warmup": options.warmup,
        "runs": options.runs,
        "encoder": encoder,
        "labels": labels,
    }


def main() -> None:
    """Measure, print a table and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model",
        dest="engines",
        type=model_directory,
        default=builtin_engine(),
        metavar="nano|DIR",
        help="float32 engines",
    )
    parser.add_argument("--backend", nargs="+", choices=("cpu", "openvino"), default=("cpu", "openvino"))
    parser.add_argument(
        "--calibrate",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="image that ranges are taken from; repeatable",
    )
    parser.add_argument("--without-labels", dest="labels", action="store_false", help="time the encoder only")
    parser.add_argument(
        "--threads", type=int, help="threads of each engine in the timing; default: the backend's choice"
    )
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    content = content_of(options)
    for row in content["encoder"]:
        print(f"{row['way']:24} {row['ms']['p50']:8.1f} ms, relative errors {row['relative_error']}")  # noqa: T201
    for row in content["labels"]:
        print(f"{row['backend']:24} {row['matched']:.1%} of the cells match, mean IoU {row['mean_iou']}")  # noqa: T201
    print(write_record(options.out, "int8", content, of=f"{content['image_size']}px"))  # noqa: T201


if __name__ == "__main__":
    main()
