"""Commands ``export`` and ``verify`` of ``cellsam-engine``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from numpy.typing import NDArray

from export.errors import VerificationError
from runtime.commands.console import errors, fail
from runtime.commands.flags import in_flags
from runtime.config import read_settings
from runtime.engines.backends.base import BackendName
from runtime.engines.manifest import Attention, Precision, Target, describe_check
from runtime.errors import ConfigError, SegmenterError
from runtime.files.plain import read_image
from runtime.types import Profile
from training.weights import weights_file

FLAGS = {
    name: f"--{name.replace('_', '-')}"
    for name in (
        *("attention", "checkpoint", "device", "force", "image", "licence", "max_batch", "max_boxes"),
        *("optimization_level", "out", "precision", "profile", "settings", "sha256", "target"),
        "trained_channels",
    )
} | {"calibration": "--calibrate", "workspace_mib": "--workspace"}
"""Options by the names of the settings and arguments that they set."""

IMAGE: Any = typer.Option(
    help="Image to check the result on: PNG, JPEG, TIFF or npy; default: a built-in image of nuclei.",
    metavar="FILE",
    readable=False,  # the reader reports unreadable images
)


def export_command(
    checkpoint: Annotated[
        str,
        typer.Option(
            help="Weights: released CellSAM, SAM ViT-B or our own format; nano for the built-in model's.",
            metavar="FILE",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Engine directory to create.", metavar="DIR")],
    profile: Annotated[
        Profile | None,
        typer.Option(
            help="Preprocessing that the weights were trained with: 'paper', one normalised input for boxes and masks; "
            "'cellsam-1.2', the two inputs of the released code; default: cellsam-1.2 for released CellSAM weights, "
            "else paper."
        ),
    ] = None,
    precision: Annotated[
        Precision,
        typer.Option(
            help="Number format of the engines: 'fp16' for GPUs; 'int8', encoders in 8-bit integers, for CPUs."
        ),
    ] = "fp32",
    attention: Annotated[
        Attention,
        typer.Option(
            help="Operators of the large attentions: 'plain' for every backend; 'fused', one onnxruntime operator per "
            "attention, which the backend cuda computes without writing the logits to memory."
        ),
    ] = "plain",
    target: Annotated[
        Target | None,
        typer.Option(
            help="Form of the engines, which does not affect results: 'gpu' suits TensorRT's fusion; 'any' is fastest "
            "on CPUs and with onnxruntime; default: gpu for plain fp16, else any.",
        ),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Licence of the weights, for the manifest; default: the checkpoint's.")
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(
            help="JSON file of thresholds for the manifest, from 'evaluate tune'; default: the settings in the "
            "checkpoint, else those of the released code.",
            metavar="FILE",
        ),
    ] = None,
    trained_channels: Annotated[
        list[int] | None,
        typer.Option(
            help="Number of channels of the images that the weights were trained on, repeatable; other images cause a "
            "warning. Default: the numbers in the checkpoint.",
            min=1,
            max=3,
        ),
    ] = None,
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(
            help="Image to measure the ranges of 'int8' on, repeatable, ideally one of each kind to be segmented, and "
            "one of them as --image: PNG, JPEG, TIFF or npy; default: the package's sample images.",
            metavar="FILE",
            readable=False,
        ),
    ] = None,
    image: Annotated[Path | None, IMAGE] = None,
    sha256: Annotated[
        str | None,
        typer.Option(
            help="Hex sha256 that the checkpoint must have, as published by its source; default: any.", metavar="HEX"
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing engine directory; nothing else is replaced.")
    ] = False,
) -> None:
    """Convert a checkpoint to an engine directory, and verify each engine against PyTorch."""
    from export.exporter import ExportConfig, export_engines

    try:
        config = ExportConfig(
            profile=profile,
            precision=precision,
            attention=attention,
            target=target,
            licence=licence,
            settings=None if settings is None else read_settings(settings),
            trained_channels=tuple(trained_channels or ()),
            sha256=sha256,
            force=force,
        )
        verified_on = read_given(image)  # before the export, which takes minutes
        calibration = [read_image(path) for path in calibrate or ()]
        manifest = export_engines(
            weights_file(checkpoint), out, config, image=verified_on, calibration=calibration, progress=say
        )
    except ConfigError as error:
        fail(error, code=2, flags=FLAGS)
    except (SegmenterError, OSError) as error:
        fail(error, flags=FLAGS)
    for output in manifest.verification["outputs"]:
        say(describe_check(output))
    typer.echo(out)


def verify_command(
    directory: Annotated[Path, typer.Argument(help="Engine directory.", metavar="DIR")],
    checkpoint: Annotated[str, typer.Option(help="Checkpoint of the engines, or nano.", metavar="FILE")],
    image: Annotated[
        list[Path] | None,
        typer.Option(
            help="Image to compare engines and PyTorch on, repeatable: PNG, JPEG, TIFF or npy; default: a built-in "
            "image of nuclei.",
            metavar="FILE",
            readable=False,
        ),
    ] = None,
    backend: Annotated[
        BackendName,
        typer.Option(
            help="Backend that runs the engines, as in 'segment'. Only float32 engines on cpu are compared element by "
            "element; others must pass gates. PyTorch runs on the CPU."
        ),
    ] = "cpu",
    save_data: Annotated[
        Path | None,
        typer.Option(
            help="Also write each engine's inputs and PyTorch's outputs there, as files of Polygraphy, which finds the "
            "layer that differs.",
            metavar="DIR",
        ),
    ] = None,
) -> None:
    """Compare each engine of a directory with PyTorch: names, shapes, values. Every image must pass.

    Float32 engines are compared with PyTorch in float64. Values may differ by 1e-3 plus 1e-3 of the value or, if the
    weights amplify rounding beyond that, by four times the error of PyTorch in float32.

    Half-precision engines are also checked for their largest magnitude, which must not exceed 65504.
    """
    from export.exporter import verify_directory

    failed = []
    try:
        given = {str(path): read_given(path) for path in image or []}  # before the checks, which take minutes
        if save_data is not None and len(given) > 1:
            raise ConfigError("--save-data writes the data of one image; got several. Give --image once.")
        for name, pixels in (given or {"the built-in image": None}).items():
            typer.echo(name)
            try:
                checks = verify_directory(
                    directory, weights_file(checkpoint), image=pixels, backend=backend, data=save_data, progress=say
                )
                for check in checks:
                    typer.echo(check)
            except VerificationError as error:
                failed.append(f"{name}: {error}")
        if failed:
            raise VerificationError("\n".join(failed))
    except ConfigError as error:
        fail(error, code=2, flags=FLAGS)
    except (SegmenterError, OSError) as error:
        fail(error, flags=FLAGS)


def read_given(image: Path | None) -> NDArray[Any] | None:
    """Read the image of ``--image``, if one is given."""
    return None if image is None else read_image(image)


def say(message: str) -> None:
    """Print a line of progress on stderr."""
    errors.print(in_flags(message, FLAGS), markup=False)
