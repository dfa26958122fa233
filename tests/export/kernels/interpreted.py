"""Comparisons of the kernels with the numpy path, in Triton's interpreter; ``test_interpreter`` runs this file.

All kernels are launched by the runtime's own code, through a double of the CUDA driver.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.sample_image import verification_image
from runtime import SegmentConfig, Segmenter
from runtime.engines.kernels.contrast import gpu_equalized_plane
from runtime.engines.kernels.launcher import GpuKernels
from runtime.engines.kernels.masks import GpuCanvas
from runtime.ops.masks import LabelCanvas, finish_labels, resize_axis
from runtime.ops.preprocess import equalized_plane, normalize_contrast
from runtime.pipeline.load import load_pipeline
from runtime.pipeline.pipeline import Pipeline
from tests.kernel_double import Driver, install, interpret, write_index

LOGITS, MODEL = 64, 256
"""Sides of the whole map of logits, and of the model input."""


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    return install(monkeypatch, interpret)


@pytest.fixture
def kernels(driver: Driver, tmp_path: Path) -> Iterator[GpuKernels]:
    write_index(tmp_path / "kernels")
    loaded = GpuKernels(tmp_path / "kernels", 0)
    yield loaded
    loaded.close()
    assert not driver.gpu.memory, "all memory is freed"


def made_masks(count: int, side: int, dtype: Any, *, seed: int = 0) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return logits of round cells with rough outlines, (K, side, side), and the origins of their windows."""
    generator = np.random.default_rng(seed)
    origins = generator.integers(0, LOGITS - side + 1, (count, 2))
    distance = np.hypot(*(np.mgrid[:side, :side] - side / 2 + 0.5))
    radii = generator.uniform(2, side / 2, (count, 1, 1))
    logits = 3 * (radii - distance) + generator.normal(size=(count, side, side))
    return logits.astype(dtype), origins


def assert_canvases_agree(
    kernels: GpuKernels, config: SegmentConfig, size_hw: tuple[int, int], masks: Any, view: Any = None
) -> None:
    """Compare crops and label maps. Args: view: size and offset of a view; None for the image."""
    logits, origins = masks
    cpu, gpu = LabelCanvas(size_hw, config), GpuCanvas(size_hw, config, kernels)
    shown, offset = view or (size_hw, (0, 0))
    axes = resize_axis(LOGITS, MODEL, shown[0]), resize_axis(LOGITS, MODEL, shown[1])
    crops: list[list[Any]] = [[], []]
    for part in (slice(4, None), slice(0, 4)):  # masks arrive in any order
        for canvas, found in zip((cpu, gpu), crops, strict=True):
            windows = logits[part] if canvas is gpu else logits[part].astype(np.float32)
            rows = np.arange(len(logits))[part], windows, origins[part], axes
            found += canvas.add_windows(*rows) if view is None else list(canvas.add_windows_of_view(*rows, offset))
    assert (cpu.owner > 0).any()
    np.testing.assert_array_equal(gpu.owner, cpu.owner)
    labels = [finish_labels(canvas.owner, len(logits), config)[0] for canvas in (gpu, cpu)]
    np.testing.assert_array_equal(*labels)
    for one, other in zip(*crops, strict=True):
        np.testing.assert_array_equal(*(crop.paste(size_hw) for crop in (one, other)))
        assert one.area_px == 0 or one.offset_yx == other.offset_yx


@pytest.mark.parametrize(("dtype", "size_hw"), [(np.float16, (90, 70)), (np.float32, (40, 100))])
@pytest.mark.parametrize("overlap", ["argmax", "last"])
def test_labels_and_masks_are_those_of_the_cpu(
    kernels: GpuKernels, dtype: Any, overlap: Any, size_hw: tuple[int, int]
) -> None:
    assert_canvases_agree(kernels, SegmentConfig(overlap=overlap), size_hw, made_masks(9, 16, dtype))


def test_masks_of_a_view_lie_at_its_place(kernels: GpuKernels) -> None:
    masks = made_masks(7, 16, np.float32)
    assert_canvases_agree(kernels, SegmentConfig(), (80, 90), masks, ((50, 60), (30, 20)))


@pytest.mark.parametrize("overlap", ["argmax", "last"])
def test_equal_logits_go_to_the_same_cell_as_on_the_cpu(kernels: GpuKernels, overlap: Any) -> None:
    logits, origins = made_masks(6, 16, np.float16)
    logits[:], origins[:] = np.round(logits[:1]), origins[:1]
    origins[3:] += origins[3:] < LOGITS - 16
    assert_canvases_agree(kernels, SegmentConfig(overlap=overlap), (64, 64), (logits, origins))


def test_masks_without_pixels(kernels: GpuKernels) -> None:
    logits, origins = made_masks(6, 8, np.float32)
    logits[1::2] = -5
    assert_canvases_agree(kernels, SegmentConfig(), (61, 59), (logits, origins))
    canvas = GpuCanvas((30, 30), SegmentConfig(), kernels)
    axes = resize_axis(LOGITS, MODEL, 30), resize_axis(LOGITS, MODEL, 30)
    crops = canvas.add_windows(np.arange(3), logits[1::2], origins[1::2], axes)
    assert [crop.mask.shape for crop in crops] == [(0, 0)] * 3
    assert canvas.add_windows(np.arange(0), logits[:0], origins[:0], axes) == []
    assert not canvas.owner.any()


def test_wrong_places_are_rejected(kernels: GpuKernels) -> None:
    logits, origins = made_masks(2, 16, np.float32)
    canvas = GpuCanvas((30, 30), SegmentConfig(), kernels)
    axes = resize_axis(LOGITS, MODEL, 30), resize_axis(LOGITS, MODEL, 30)
    with pytest.raises(ValueError, match="beyond the whole map"):
        canvas.add_windows(np.arange(2), logits, origins + LOGITS - 10, axes)
    with pytest.raises(ValueError, match="beyond the image"):
        list(canvas.add_windows_of_view(np.arange(2), logits, origins, axes, (1, 0)))


def sample(dtype: Any) -> NDArray[Any]:
    """Return part of the sample image, with more gray levels for 16 bits."""
    image = verification_image()[100:240, 40:190]
    return image if dtype == np.uint8 else image.astype(np.uint16) * 211 + 17


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("invert", [False, True])
def test_contrast_is_that_of_the_cpu(kernels: GpuKernels, driver: Driver, dtype: Any, invert: bool) -> None:
    image = sample(dtype)
    found = gpu_equalized_plane(image, kernels, invert=invert)
    np.testing.assert_array_equal(found, equalized_plane(image, invert=invert))
    assert found is not None
    assert found.dtype == np.float32
    kind = "u8" if dtype == np.uint8 else "u16"
    assert [launch.kernel for launch in driver.launches] == [
        f"count_values_{kind}",
        f"look_up_bins_{kind}",
        "count_bins",
        "equalisation_maps",
        "interpolate_levels",
        "spread_levels",
    ]


@pytest.mark.parametrize("size_hw", [(1, 7), (130, 3), (128, 128)])
def test_contrast_of_small_and_whole_tiles(kernels: GpuKernels, size_hw: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, size_hw).astype(np.uint8)
    np.testing.assert_array_equal(gpu_equalized_plane(image, kernels), equalized_plane(image))


@pytest.mark.parametrize("share", [0.0005, 0.02, 0.5])
def test_clipped_counts_are_redistributed_as_on_the_cpu(kernels: GpuKernels, share: float) -> None:
    generator = np.random.default_rng(1)
    image = np.where(generator.random((128, 128)) < share, generator.integers(1, 256, (128, 128)), 7).astype(np.uint8)
    np.testing.assert_array_equal(gpu_equalized_plane(image, kernels), equalized_plane(image))


def test_flat_and_other_images(kernels: GpuKernels, driver: Driver) -> None:
    assert gpu_equalized_plane(np.full((5, 9), 3, np.uint8), kernels) is None
    assert gpu_equalized_plane(np.zeros((5, 9), np.uint16), kernels) is None
    launched = len(driver.launches)
    image = np.random.default_rng(0).random((20, 30))
    np.testing.assert_array_equal(gpu_equalized_plane(image, kernels), equalized_plane(image))
    assert len(driver.launches) == launched, "only 8- and 16-bit images go to the GPU"


def test_a_sample_image_is_segmented_as_on_the_cpu(kernels: GpuKernels, driver: Driver) -> None:
    image = verification_image()[200:300, 60:170]
    plain = load_pipeline(None, backend="cpu")
    on_gpu = Pipeline(plain.engines, plain.manifest, kernels=kernels)
    config = replace(plain.manifest.config, diameter_px=30.0)
    expected, found = (Segmenter.from_pipeline(one, config)(image) for one in (plain, on_gpu))
    assert expected.labels.max() >= 3
    agreement = np.mean(found.labels == expected.labels)
    assert agreement >= 0.9999, f"{(1 - agreement) * found.labels.size:.0f} pixels differ"
    assert [mask.area_px for mask in found.masks] == [mask.area_px for mask in expected.masks]
    assert {launch.kernel for launch in driver.launches} >= {"spread_levels", "paint_windows_argmax_fp32"}


def test_a_channel_of_a_color_image(kernels: GpuKernels) -> None:
    image = np.stack([sample(np.uint8)[:60, :50], sample(np.uint8)[60:120, 50:100]], axis=-1)
    equalized = lambda plane, *, invert=False: gpu_equalized_plane(plane, kernels, invert=invert)  # noqa: E731
    np.testing.assert_array_equal(normalize_contrast(image, equalized=equalized), normalize_contrast(image))
