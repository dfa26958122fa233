"""Inputs and expected outputs of each engine as files of NVIDIA's Polygraphy.

    encoder_inputs.json, encoder_outputs.json, cellfinder_inputs.json, ...

``polygraphy run encoder.onnx --onnxrt --load-inputs encoder_inputs.json --load-outputs encoder_outputs.json`` compares
a backend with PyTorch element by element, and with ``--onnx-outputs mark all`` it saves every tensor of the graph. So
somebody with a GPU can find the first layer that differs, without the checkpoint or this package.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.errors import ExportError
from export.polygraphy_log import quiet_polygraphy
from export.references import references
from export.sample_image import verification_image
from runtime.engines.manifest import EngineName, Manifest, TensorSpec
from runtime.extras import install_command
from runtime.ops.preprocess import normalize_contrast
from runtime.types import Arrays
from training.model import CellSAM

RUNNER = "pytorch-float32"
"""Name of the runner that the saved outputs are from."""


def save_data(
    out: Path, manifest: Manifest, model: CellSAM, image: NDArray[np.generic] | None = None
) -> list[tuple[Path, Path]]:
    """Write each engine's inputs and PyTorch's outputs for them, in the types of the engine.

    As in ``verify``, inputs are PyTorch's outputs of the engine before.

    Args:
        out: directory for the files, which is created; existing files are replaced.
        manifest: lists the engines and states how to prepare the image.
        model: the unreduced model, float32.
        image: image to run on; default, the image in the package.

    Returns:
        Paths of inputs and outputs of each engine.

    Raises:
        ExportError: Polygraphy is not installed.
    """
    try:
        from polygraphy.comparator import RunResults
        from polygraphy.json import save_json

        quiet_polygraphy()
    except ImportError as error:
        raise ExportError(
            f"the data are files of Polygraphy ({error}): {install_command('rtx')}.", kind="not_installed"
        ) from error
    out.mkdir(parents=True, exist_ok=True)
    normalized = normalize_contrast(verification_image() if image is None else image)
    written = []
    for engine_name, feeds, outputs in references(model, manifest, normalized):
        spec = manifest.engines[engine_name]
        paths = data_paths(out, engine_name)
        save_json([_cast(feeds, spec.inputs)], str(paths[0]))
        results = RunResults()
        results.add([_cast(outputs, spec.outputs)], runner_name=RUNNER)
        results.save(str(paths[1]))
        written.append(paths)
    return written


def data_paths(out: Path, engine: EngineName) -> tuple[Path, Path]:
    """Return the paths of an engine's inputs and outputs."""
    return out / f"{engine}_inputs.json", out / f"{engine}_outputs.json"


def _cast(arrays: Arrays, tensors: tuple[TensorSpec, ...]) -> OrderedDict[str, NDArray[np.generic]]:
    return OrderedDict((one.name, np.ascontiguousarray(arrays[one.name].astype(one.dtype))) for one in tensors)
