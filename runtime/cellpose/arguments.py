"""Cellpose's command line options.

Source: MouseLand/cellpose, ``cellpose/cli.py`` of versions 1 to 4.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

NO_EFFECT = {
    "flow_threshold": float,
    "niter": int,
    "batch_size": int,
    "bsize": int,
    "norm_percentile": None,
    "no_norm": bool,
    "no_resample": bool,
    "resample": bool,
    "no_interp": bool,
    "net_avg": bool,
    "fast_mode": bool,
    "augment": bool,
    "anisotropy": float,
    "flow3D_smooth": None,
    "channel_axis": int,
    "z_axis": int,
    "do_3D": bool,
    "stitch_threshold": float,
    "all_channels": bool,
    "transformer": bool,
    "restore_type": str,
    "chan2_restore": bool,
    "pretrained_model_ortho": str,
    "save_flows": bool,
    "save_mpl": bool,
    "diam_mean": float,
    "check_mkl": bool,
    "Zstack": bool,
    "no_wandb": bool,
}
"""Options that are accepted and listed in a warning: they concern flows, stacks, or how Cellpose computes."""

OF_TRAINING = (
    *("train", "train_size", "test_dir", "file_list", "learning_rate", "weight_decay", "n_epochs", "train_batch_size"),
    *("nimg_per_epoch", "nimg_test_per_epoch", "min_train_masks", "SGD", "save_every", "save_each", "model_name_out"),
    "add_model",
)
"""Options that need Cellpose itself."""

_FLAGS = {
    "version": "print the version, and exit",
    "verbose": "print progress, also to ~/.cellpose/run.log, which TrackMate reads",
    "use_gpu": "run on a GPU; without one, a line on stderr names the reason, and the CPU is used",
    "look_one_level_down": "also take the images of the folders in --dir",
    "invert": "cells are dark on a bright background",
    "exclude_on_edges": "drop cells that touch an edge of the image",
    "save_png": "write NAME_cp_masks.png",
    "save_tif": "write NAME_cp_masks.tif",
    "save_rois": "write NAME_rois.zip beside the image, for ImageJ",
    "save_txt": "write NAME_cp_outlines.txt",
    "save_outlines": "write a picture of the image with outlined cells",
    "no_npy": "do not write NAME_seg.npy beside the image",
    "dir_above": "write to the folder above that of the image",
    "in_folders": "write masks, outlines and text to folders of these names",
}

_VALUES: dict[str, tuple[type, object, str]] = {
    "gpu_device": (str, "0", "number of the GPU"),
    "dir": (str, None, "folder of the images"),
    "image_path": (str, None, "one image, if --dir is not given"),
    "img_filter": (str, "", "take images whose names end so, before the suffix"),
    "mask_filter": (str, "_masks", "skip images whose names end so, before the suffix"),
    "chan": (int, 0, "channel to segment: 0 all, 1 red, 2 green, 3 blue"),
    "chan2": (int, 0, "channel of the nuclei: 0 none, 1 red, 2 green, 3 blue"),
    "pretrained_model": (str, None, "an engine directory; for names of Cellpose's models, the built-in model runs"),
    "diameter": (float, 0.0, "median cell diameter, pixels; 0, the default, measures it"),
    "cellprob_threshold": (float, 0.0, "lower values make masks larger; 0 is the model's own threshold"),
    "min_size": (int, None, "smallest cell, pixels; -1 keeps all"),
    "output_name": (str, None, "ending of the masks in place of _cp_masks"),
    "savedir": (str, None, "folder of the results; default: that of the image"),
}


def parse(arguments: Sequence[str] | None, program: str = "cellsam-cellpose") -> argparse.Namespace:
    """Parse the options of a command line; unknown ones end the process with code 2.

    Returns:
        A value for each option of Cellpose; None for options of ``NO_EFFECT`` and ``OF_TRAINING`` that are not given.
    """
    parser = argparse.ArgumentParser(
        prog=program,
        description="Segment images as Cellpose's command does, with CellSAM engines.",
        allow_abbrev=False,
    )
    for name, text in _FLAGS.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    for name, (kind, default, text) in _VALUES.items():
        parser.add_argument(f"--{name}", type=kind, default=default, help=text)
    for name, of in NO_EFFECT.items():
        if of is bool:
            parser.add_argument(f"--{name}", action="store_const", const=True, help="no effect")
        elif of is None:
            parser.add_argument(f"--{name}", nargs="+", type=float, help="no effect")
        else:
            parser.add_argument(f"--{name}", type=of, help="no effect")
    for name in OF_TRAINING:
        parser.add_argument(f"--{name}", nargs="?", const=True, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    wrong = [name for name in OF_TRAINING if getattr(given, name) is not None]
    if wrong:
        parser.error(
            f"--{wrong[0]} is an option of training; expected options for segmenting. Train with "
            "'cellsam-engine finetune'."
        )
    if not given.version and not given.dir and not given.image_path:
        parser.error("neither --dir nor --image_path is given; expected one of them. There is no window to open.")
    return given


def without_effect(given: argparse.Namespace) -> list[str]:
    """List the given options that have no effect."""
    return [f"--{name}" for name in NO_EFFECT if getattr(given, name) is not None]
