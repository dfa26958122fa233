"""Engines on tiles of ``data build``, whose contrast is equalised already."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from runtime import preprocess
from runtime.errors import InputError
from runtime.results import EncodedImage
from runtime.segmenter import Segmenter


class TileSegmenter(Segmenter):
    """A ``Segmenter`` that leaves the contrast as it is: equalising it twice would change the image.

    Takes (H, W, 3) in [0, 1], from ``runtime.preprocess.normalize_contrast``.
    """

    def encode(self, image: ArrayLike, *, detector: bool = True) -> EncodedImage:
        """Run the encoder on one contrast-equalised image; otherwise as ``Segmenter.encode``.

        Raises:
            InputError: not (H, W, 3), values outside [0, 1], or what ``Segmenter.encode`` refuses.
        """
        checked = preprocess.check_image(image)
        if checked.shape[2] != 3 or checked.min() < 0 or checked.max() > 1:
            raise InputError(
                f"image has shape {checked.shape} and values {checked.min()}..{checked.max()}; expected a tile of "
                "'data build', (H, W, 3) in [0, 1]."
            )
        if detector and not self.manifest.has_detector:
            raise InputError("these engines have no detector (plain SAM weights); they cannot be evaluated alone.")
        branches = preprocess.branch_inputs(checked.astype(np.float32), self.manifest, detector=detector)
        outputs = self._run_encoder("encoder", branches.mask)
        features = None
        if branches.box is not None:
            separate = self.manifest.trunk == "separate"
            again = separate or branches.box is not branches.mask
            found = self._run_encoder("detector_encoder" if separate else "encoder", branches.box) if again else outputs
            features = found["patch_features"]
        return EncodedImage((checked.shape[0], checked.shape[1]), outputs["image_embedding"], features)
