"""TensorRT plans of several engine directories in comparison: kernels, fused attentions, bytes, memory.

    cellsam-engine export --checkpoint weights.pt --out any --precision fp16 --target any
    cellsam-engine export --checkpoint weights.pt --out gpu --precision fp16
    python -m benchmarks.plans any gpu

This needs no GPU: plans are compiled with TensorRT for RTX (``pip install 'cellsam-engine[rtx]'``), and nothing is
timed. The values of the weights do not affect the figures.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.measure import write_record
from export.plans.report import ReportOptions, report_engine
from runtime.engines.backends.input_shapes import BOXES_ON_GPU, IMAGES_ON_GPU
from runtime.engines.backends.tensorrt_rtx import CAPABILITIES
from runtime.engines.manifest import read_manifest


def measure_directory(directory: Path, options: ReportOptions) -> dict[str, Any]:
    """Compile the engines of one directory."""
    manifest = read_manifest(directory)
    reports = [report_engine(directory, manifest, name, options) for name in manifest.engines]
    return {
        "precision": manifest.precision,
        "target": manifest.target,
        "image_size": manifest.image_size,
        "model": dict(manifest.model),
        "weights": dict(manifest.weights),
        "compute_capability": options.capability,
        "engines": [asdict(report) for report in reports],
    }


def main() -> None:
    """Compile the engines and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", type=Path, nargs="+", metavar="DIR", help="engine directory")
    parser.add_argument("--compute-capability", nargs="+", choices=CAPABILITIES, default=["8.6"], dest="capabilities")
    parser.add_argument("--images", type=int, default=IMAGES_ON_GPU, help="images per call of encoder and detector")
    parser.add_argument("--boxes", type=int, default=BOXES_ON_GPU, help="boxes per call of the mask decoder")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    sizes = [
        ReportOptions(capability=capability, images=options.images, boxes=options.boxes)
        for capability in options.capabilities
    ]
    content = {
        "tensorrt_rtx": version("tensorrt-rtx-cu13-bindings"),
        "images": options.images,
        "boxes": options.boxes,
        "results": [measure_directory(directory, one) for directory in options.directories for one in sizes],
    }
    print(write_record(options.out, "plans", content))  # noqa: T201


if __name__ == "__main__":
    main()
