"""Tests of shapes, placing, optics and camera."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import label

from training.data.synthetic import kernels
from training.data.synthetic.camera import expose
from training.data.synthetic.fields import ellipse_radii, fibres, smooth_field, texture
from training.data.synthetic.layouts.packed import one_part_each, packed
from training.data.synthetic.layouts.rods import rod, rod_radius
from training.data.synthetic.optics import (
    PhaseOptics,
    blurred,
    bright_field,
    interference_contrast,
    phase_contrast,
)
from training.data.synthetic.scene import Canvas, blob, roughened

SIZE = (120, 140)


def test_a_disc_is_painted_where_it_is() -> None:
    canvas = Canvas(SIZE)
    assert canvas.add(blob((50, 60), np.full(48, 20.0), SIZE))
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    np.testing.assert_array_equal(canvas.labels > 0, (y - 50) ** 2 + (x - 60) ** 2 < 20**2)
    assert canvas.thickness[50, 60] == pytest.approx(1)
    assert canvas.thickness[canvas.labels == 0].max() == 0


@given(st.floats(10, 30), st.floats(1, 2.5), st.floats(0, np.pi))
@settings(max_examples=20, deadline=None)
def test_an_ellipse_has_its_area(minor: float, aspect: float, angle: float) -> None:
    radii = ellipse_radii(np.array([minor]), np.array([aspect]), np.array([angle]), angles=96)[0]
    stamp = blob((100, 100), radii, (200, 200))
    assert stamp is not None
    assert (stamp.distance > 0).sum() == pytest.approx(np.pi * minor**2 * aspect, rel=0.05)


@given(st.floats(16, 40), st.floats(1.2, 6), st.floats(0, np.pi), st.floats(-1, 1))
@settings(max_examples=20, deadline=None)
def test_a_rod_has_the_area_of_its_disc(diameter: float, ratio: float, angle: float, bend: float) -> None:
    radius = rod_radius(diameter, ratio)
    stamp = rod((150, 150), 2 * radius * ratio, radius, angle, bend, (300, 300))
    assert stamp is not None
    assert (stamp.distance > 0).sum() == pytest.approx(np.pi / 4 * diameter**2, rel=0.12)


@given(st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_a_placed_cell_never_changes_and_every_cell_shows_as_one_part(seed: int) -> None:
    rng = np.random.default_rng(seed)
    canvas = Canvas(SIZE)
    for _ in range(40):
        before, count = canvas.labels.copy(), canvas.count
        radii = rng.uniform(4, 14) * np.exp(0.2 * rng.standard_normal(24))
        added = canvas.add(blob(tuple(rng.uniform(0, SIZE)), radii, SIZE), hidden=0.4)
        assert canvas.count == count + added
        np.testing.assert_array_equal(canvas.labels[before > 0], before[before > 0])
        np.testing.assert_array_equal((canvas.labels != before).any(), added)
    for value in range(1, canvas.count + 1):
        assert ndimage.label(canvas.labels == value)[1] == 1


def test_a_gap_is_kept() -> None:
    canvas = Canvas(SIZE)
    assert canvas.add(blob((50, 40), np.full(48, 15.0), SIZE))
    assert not canvas.add(blob((50, 72), np.full(48, 15.0), SIZE), gap_px=4)
    assert canvas.add(blob((50, 72), np.full(48, 15.0), SIZE), gap_px=1)


def test_a_rough_outline_stays_one_part() -> None:
    relief = 6 * smooth_field(np.random.default_rng(0), SIZE, 4)
    stamp = roughened(blob((60, 70), np.full(48, 20.0), SIZE), relief)
    assert stamp is not None
    assert ndimage.label(stamp.distance > 0)[1] == 1


def test_inner_distance_is_near_the_euclidean_one() -> None:
    scene = packed(np.random.default_rng(0), (160, 160), 30.0)
    for value in range(1, scene.count + 1):
        inside = np.pad(scene.labels == value, 1, mode="edge")
        exact = ndimage.distance_transform_edt(inside)[1:-1, 1:-1] - 0.5
        own = scene.labels == value
        np.testing.assert_allclose(scene.depth[own], exact[own], rtol=0.09, atol=0.3)


def test_regions_are_those_of_the_nearest_seed() -> None:
    rng = np.random.default_rng(0)
    seeds = rng.uniform(0, 100, (30, 2))
    y, x = np.mgrid[:100, :100].astype(np.float32)
    found = kernels.regions(seeds, seeds, np.ones(30), y, x)
    nearest = np.argmin((y[..., None] - seeds[:, 0]) ** 2 + (x[..., None] - seeds[:, 1]) ** 2, axis=-1) + 1
    assert (found != nearest).mean() < 0.002


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_parts_are_those_of_skimage(seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 3, (24, 31)).astype(np.int32)
    np.testing.assert_array_equal(kernels.parts(labels), label(labels, background=0, connectivity=2))


def test_the_largest_part_of_a_label_is_kept() -> None:
    labels = np.array([[1, 0, 2, 2], [0, 0, 0, 0], [1, 1, 0, 3]], np.int32)
    np.testing.assert_array_equal(one_part_each(labels) > 0, [[0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 0, 1]])


@pytest.mark.parametrize("scale", [2.0, 10.0, 40.0])
def test_surfaces_have_mean_0_and_deviation_1(scale: float) -> None:
    for make in (smooth_field, texture):
        values = np.stack([make(np.random.default_rng(seed), (256, 256), scale) for seed in range(8)])
        assert abs(values.mean()) < 0.15
        assert values.std() == pytest.approx(1, abs=0.35)
    assert fibres(np.random.default_rng(0), (200, 256), scale, 5.0).shape == (200, 256)


def test_blur_keeps_the_light() -> None:
    image = np.random.default_rng(0).random((64, 80), np.float32)
    assert blurred(image, 2.0, 0.3, 9.0).mean() == pytest.approx(image.mean(), rel=1e-4)


@pytest.mark.parametrize("positive", [True, False])
def test_phase_contrast_of_a_thin_disc(positive: bool) -> None:
    y, x = np.mgrid[:128, :128]
    distance = np.hypot(y - 64, x - 64)
    disc = (0.3 * (distance < 8)).astype(np.float32)
    optics = PhaseOptics(positive=positive, ring_px=8.0, transmission=0.6, sigma_px=0.8)
    light = phase_contrast(disc, None, optics)
    assert light[0, 0] == pytest.approx(1, abs=0.02)
    sign = -1 if positive else 1
    assert sign * (light[64, 64] - 1) > 0.2
    halo = light[(distance > 10) & (distance < 16)].mean()
    assert sign * (halo - 1) < -0.02


def test_a_phase_object_in_focus_is_not_seen_and_defocus_turns_its_contrast() -> None:
    y, x = np.mgrid[:128, :128]
    lens = (0.4 * np.exp(-((y - 64) ** 2 + (x - 64) ** 2) / 50)).astype(np.float32)
    in_focus, over, under = (bright_field(lens, None, z, 0.0, 0.0)[64, 64] - 1 for z in (0.0, 8.0, -8.0))
    assert abs(in_focus) < 1e-3
    assert over * under < 0
    assert min(abs(over), abs(under)) > 0.02


def test_interference_contrast_shows_the_slope_along_the_shear() -> None:
    y, x = np.mgrid[:128, :128]
    lens = np.exp(-((y - 64) ** 2 + (x - 64) ** 2) / 200).astype(np.float32)
    light = interference_contrast(lens, (0.0, 1.5), 0.8, 0.5) - np.sin(0.4) ** 2
    assert light[64, 54] * light[64, 74] < 0
    assert abs(light[54, 64]) < 0.1 * abs(light[64, 54])


def test_few_electrons_make_a_noisy_image() -> None:
    light = np.ones((100, 100), np.float32)
    spread = {}
    for electrons in (50.0, 5000.0):
        stored = expose(light, np.random.default_rng(1), electrons=(electrons, electrons), fill=(0.8, 0.8))
        spread[electrons] = stored.std() / stored.mean()
    assert spread[50.0] > 5 * spread[5000.0]
