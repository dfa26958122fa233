"""Compiled loops over pixels: distances to shapes, painting, Voronoi regions, spots. Random values are arguments."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from runtime.ops.compiled import compiled
from runtime.types import F32, I32

F64 = NDArray[np.float64]


FAR_PX = 4
"""Largest distance outside an outline that is needed, pixels."""


@compiled
def blob_distance(
    centre_yx: tuple[float, float], radii: F64, origin_yx: tuple[int, int], size_hw: tuple[int, int]
) -> F32:
    """Compute the radial distance to a star-shaped outline, pixels; positive inside.

    Args:
        centre_yx: centre of the shape, pixels.
        radii: (N,) radius at the angles 2 pi n / N, from +x towards +y, pixels.
        origin_yx: upper left pixel of the window.
        size_hw: size of the window (height, width), pixels.

    Returns:
        (h, w) float32.
    """
    out = np.empty((size_hw[0], size_hw[1]), np.float32)
    number, largest = len(radii), radii.max()
    for y in range(size_hw[0]):
        dy = y + origin_yx[0] - centre_yx[0]
        for x in range(size_hw[1]):
            dx = x + origin_yx[1] - centre_yx[1]
            if dy * dy + dx * dx > (largest + FAR_PX) * (largest + FAR_PX):
                out[y, x] = largest - math.sqrt(dy * dy + dx * dx)
                continue
            place = (math.atan2(dy, dx) / (2 * math.pi) % 1.0) * number
            before = int(place) % number
            share = place - int(place)
            radius = (1 - share) * radii[before] + share * radii[(before + 1) % number]
            out[y, x] = radius - math.sqrt(dy * dy + dx * dx)
    return out


@compiled
def stroke_distance(
    starts: F64, ends: F64, blend_px: float, origin_yx: tuple[int, int], size_hw: tuple[int, int]
) -> F32:
    """Compute the signed distance to a union of tapered capsules, pixels; positive inside.

    Args:
        starts: (N, 3) y, x and radius at one end of each capsule.
        ends: (N, 3) y, x and radius at the other end.
        blend_px: width over which capsules merge smoothly; 0 leaves creases.
        origin_yx: upper left pixel of the window.
        size_hw: size of the window (height, width), pixels.

    Returns:
        (h, w) float32. Capsules that are far from a pixel are ignored; far from all of them, the value is -1e9.
    """
    out = np.empty((size_hw[0], size_hw[1]), np.float32)
    lows, highs = np.empty((len(starts), 2)), np.empty((len(starts), 2))
    for n in range(len(starts)):
        reach = max(starts[n, 2], ends[n, 2]) + blend_px + FAR_PX
        for axis in range(2):
            lows[n, axis] = min(starts[n, axis], ends[n, axis]) - reach - origin_yx[axis]
            highs[n, axis] = max(starts[n, axis], ends[n, axis]) + reach - origin_yx[axis]
    for y in range(size_hw[0]):
        for x in range(size_hw[1]):
            best = -1e9
            for n in range(len(starts)):
                if y < lows[n, 0] or y > highs[n, 0] or x < lows[n, 1] or x > highs[n, 1]:
                    continue
                ay, ax = y + origin_yx[0] - starts[n, 0], x + origin_yx[1] - starts[n, 1]
                by, bx = ends[n, 0] - starts[n, 0], ends[n, 1] - starts[n, 1]
                length = by * by + bx * bx
                t = 0.0 if length == 0 else min(max((ay * by + ax * bx) / length, 0.0), 1.0)
                ey, ex = ay - t * by, ax - t * bx
                radius = starts[n, 2] + t * (ends[n, 2] - starts[n, 2])
                value = radius - math.sqrt(ey * ey + ex * ex)
                bridge = max(blend_px - abs(value - best), 0.0)
                best = max(value, best) + (bridge * bridge / (4 * blend_px) if blend_px > 0 else 0.0)
            out[y, x] = best
    return out


@compiled
def overlap(labels: I32, distance: F32, y0: int, x0: int, gap_px: float) -> tuple[int, int, int]:
    """Count pixels inside a shape, the taken ones among them, and taken pixels within ``gap_px`` of the shape."""
    inside, taken, near = 0, 0, 0
    for y in range(distance.shape[0]):
        for x in range(distance.shape[1]):
            used = labels[y + y0, x + x0] > 0
            if distance[y, x] > 0:
                inside += 1
                taken += used
            if used and distance[y, x] > -gap_px:
                near += 1
    return inside, taken, near


@compiled
def main_part(mask: NDArray[np.bool_], y: int, x: int) -> NDArray[np.bool_]:
    """Return the part of a mask that contains one of its pixels; corners do not connect."""
    height, width = mask.shape
    out = np.zeros(mask.shape, np.bool_)
    stack = np.empty((mask.size, 2), np.int64)
    stack[0, 0], stack[0, 1] = y, x
    out[y, x] = True
    count = 1
    while count > 0:
        count -= 1
        cy, cx = stack[count, 0], stack[count, 1]
        for step in range(4):
            ny = cy + (step == 0) - (step == 1)
            nx = cx + (step == 2) - (step == 3)
            if 0 <= ny < height and 0 <= nx < width and mask[ny, nx] and not out[ny, nx]:
                out[ny, nx] = True
                stack[count, 0], stack[count, 1] = ny, nx
                count += 1
    return out


@compiled
def paint(labels: I32, thickness: F32, distance: F32, y0: int, x0: int, value: int, height: float, edge: float) -> None:
    """Paint a shape under existing ones; its thickness rises like a quarter circle over ``edge`` pixels."""
    for y in range(distance.shape[0]):
        for x in range(distance.shape[1]):
            if distance[y, x] > 0:
                if labels[y + y0, x + x0] == 0:
                    labels[y + y0, x + x0] = value
                rest = 1 - min(distance[y, x] / edge, 1.0)
                thickness[y + y0, x + x0] += height * math.sqrt(1 - rest * rest)


@compiled
def scatter(candidates_yx: F64, radii: F64, max_count: int) -> NDArray[np.int64]:
    """Return the indices of candidates whose distances are at least the sum of both radii, in order."""
    kept = np.empty(len(candidates_yx), np.int64)
    count = 0
    for n in range(len(candidates_yx)):
        if count >= max_count:
            break
        free = True
        for k in range(count):
            m = kept[k]
            dy, dx = candidates_yx[n, 0] - candidates_yx[m, 0], candidates_yx[n, 1] - candidates_yx[m, 1]
            least = radii[n] + radii[m]
            if dy * dy + dx * dx < least * least:
                free = False
                break
        if free:
            kept[count] = n
            count += 1
    return kept[:count]


@compiled
def regions(seeds_yx: F64, bent_seeds_yx: F64, sizes: F64, warped_y: F32, warped_x: F32) -> I32:
    """Compute the Voronoi regions of seeds in a bent plane, by propagation from pixel to pixel.

    Args:
        seeds_yx: (N, 2) seeds inside the image, pixels.
        bent_seeds_yx: (N, 2) seeds in the bent plane.
        sizes: (N,) relative size of each region; distances are divided by it.
        warped_y, warped_x: (H, W) coordinates of every pixel in the bent plane.

    Returns:
        (H, W) int32, 1..N. The regions are nearly exact: a thin tip may go to a neighbour.
    """
    height, width = warped_y.shape
    out = np.zeros((height, width), np.int32)
    cost = np.full((height, width), np.float32(1e18))
    for n in range(len(seeds_yx)):
        y, x = int(seeds_yx[n, 0]), int(seeds_yx[n, 1])
        dy, dx = warped_y[y, x] - bent_seeds_yx[n, 0], warped_x[y, x] - bent_seeds_yx[n, 1]
        own = np.float32((dy * dy + dx * dx) / (sizes[n] * sizes[n]))
        if own < cost[y, x]:
            out[y, x], cost[y, x] = n + 1, own
    steps = ((0, -1), (-1, -1), (-1, 0), (-1, 1))
    for sweep in range(4):
        sign = 1 if sweep % 2 == 0 else -1
        for row in range(height):
            y = row if sign > 0 else height - 1 - row
            for column in range(width):
                x = column if sign > 0 else width - 1 - column
                for dy_step, dx_step in steps:
                    fy, fx = y + sign * dy_step, x + sign * dx_step
                    if fy < 0 or fx < 0 or fy >= height or fx >= width:
                        continue
                    seed = out[fy, fx]
                    if seed == 0 or seed == out[y, x]:
                        continue
                    dy, dx = warped_y[y, x] - bent_seeds_yx[seed - 1, 0], warped_x[y, x] - bent_seeds_yx[seed - 1, 1]
                    new = np.float32((dy * dy + dx * dx) / (sizes[seed - 1] * sizes[seed - 1]))
                    if new < cost[y, x]:
                        out[y, x], cost[y, x] = seed, new
    return out


@compiled
def _sweep(labels: I32, out: F32) -> None:
    """Propagate distances from the upper left to the lower right."""
    height, width = labels.shape
    one, diagonal, half = np.float32(1), np.float32(math.sqrt(2.0)), np.float32(0.5)
    corner = diagonal - half
    for y in range(height):
        own, far = labels[y], out[y]
        above, far_above = labels[max(y - 1, 0)], out[max(y - 1, 0)]
        for x in range(width):
            best, value = far[x], own[x]
            if x > 0:
                best = min(best, far[x - 1] + one if own[x - 1] == value else half)
            if y > 0:
                best = min(best, far_above[x] + one if above[x] == value else half)
                if x > 0:
                    best = min(best, far_above[x - 1] + diagonal if above[x - 1] == value else corner)
                if x < width - 1:
                    best = min(best, far_above[x + 1] + diagonal if above[x + 1] == value else corner)
            far[x] = best


@compiled
def inner_distance(labels: I32) -> F32:
    """Compute the distance (H, W) of every pixel to the nearest pixel of another label; the image edge does not count.

    It is a chamfer distance with steps 1 and the square root of 2 that starts at half a pixel, within 8 % of the
    Euclidean distance, in pixels.
    """
    out = np.full(labels.shape, np.float32(1e6))
    _sweep(labels, out)
    _sweep(labels[::-1, ::-1], out[::-1, ::-1])
    return out


@compiled
def parts(labels: I32) -> I32:
    """Number the connected parts of every label 1..n in the order of their first pixel; corners connect.

    Two passes with a union of the numbers that meet.
    """
    height, width = labels.shape
    out = np.zeros(labels.shape, np.int32)
    parent = np.zeros(labels.size + 1, np.int32)
    count = 0
    for y in range(height):
        for x in range(width):
            value = labels[y, x]
            if value == 0:
                continue
            own = 0
            for step in range(4):
                fy = y if step == 0 else y - 1
                fx = x - 1 if step == 0 else x - 2 + step
                if fy < 0 or fx < 0 or fx >= width or labels[fy, fx] != value:
                    continue
                root = out[fy, fx]
                while parent[root] != root:
                    root = parent[root]
                if own == 0:
                    own = root
                elif own != root:
                    low, high = min(own, root), max(own, root)
                    parent[high] = low
                    own = low
            if own == 0:
                count += 1
                own = count
                parent[own] = own
            out[y, x] = own
    number = np.zeros(count + 1, np.int32)
    found = 0
    for n in range(1, count + 1):
        root = n
        while parent[root] != root:
            root = parent[root]
        if root == n:
            found += 1
            number[n] = found
        else:
            number[n] = number[root]
    for y in range(height):
        for x in range(width):
            out[y, x] = number[out[y, x]]
    return out


@compiled
def deepest(labels: I32, depth: F32, number: int) -> F64:
    """Return (number, 3): y, x and depth of the deepest pixel of each label 1..number; depth 0 if it is absent."""
    out = np.zeros((number, 3), np.float64)
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            value = labels[y, x]
            if value > 0 and depth[y, x] > out[value - 1, 2]:
                out[value - 1, 0], out[value - 1, 1], out[value - 1, 2] = y, x, depth[y, x]
    return out


@compiled
def nuclei_distance(labels: I32, centres_yx: F64, radii: F64) -> F32:
    """Compute the distance (H, W) to the outline of each cell's nucleus, positive inside; nuclei end with their cells.

    Args:
        labels: (H, W) cells 1..N.
        centres_yx: (N, 2) centres of the nuclei, pixels.
        radii: (N, M) radius at M angles, pixels; 0 leaves the cell without a nucleus.
    """
    out = np.full(labels.shape, np.float32(-1e6))
    number = radii.shape[1]
    for n in range(len(centres_yx)):
        largest = radii[n].max()
        if largest <= 0:
            continue
        cy, cx = centres_yx[n, 0], centres_yx[n, 1]
        for y in range(max(0, int(cy - largest)), min(labels.shape[0], int(cy + largest) + 2)):
            for x in range(max(0, int(cx - largest)), min(labels.shape[1], int(cx + largest) + 2)):
                if labels[y, x] != n + 1:
                    continue
                dy, dx = y - cy, x - cx
                place = (math.atan2(dy, dx) / (2 * math.pi) % 1.0) * number
                before = int(place) % number
                share = place - int(place)
                radius = (1 - share) * radii[n, before] + share * radii[n, (before + 1) % number]
                out[y, x] = np.float32(radius - math.sqrt(dy * dy + dx * dx))
    return out


@compiled
def add_spots(image: F32, spots: F64) -> None:
    """Add Gaussian spots, (N, 4): y, x, sigma in pixels and height."""
    for n in range(len(spots)):
        cy, cx, sigma, height = spots[n, 0], spots[n, 1], spots[n, 2], spots[n, 3]
        reach = 3 * sigma + 1
        for y in range(max(0, int(cy - reach)), min(image.shape[0], int(cy + reach) + 2)):
            for x in range(max(0, int(cx - reach)), min(image.shape[1], int(cx + reach) + 2)):
                squared = (y - cy) * (y - cy) + (x - cx) * (x - cx)
                image[y, x] += np.float32(height * math.exp(-squared / (2 * sigma * sigma)))
