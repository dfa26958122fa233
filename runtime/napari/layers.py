"""Layers of a viewer that the widgets read and write; needs no Qt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from napari.layers import Image, Labels, Layer, Shapes
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.napari.layer_data import CELLS, METADATA, noted
from runtime.napari.painting import Change
from runtime.napari.parts import ImagePart, Plane, plane_of
from runtime.types import I32

Viewer = Any
"""``napari.Viewer`` or ``napari.components.ViewerModel``."""

PREVIEW = "Preview"
BOXES = "Boxes"
BOX_PREVIEW = "Cells of boxes"


def images_of(viewer: Viewer) -> list[Any]:
    """Return the image layers, in their order."""
    return [layer for layer in viewer.layers if isinstance(layer, Image)]


def find_layer(viewer: Viewer, name: str, kind: type[Any]) -> Any | None:
    """Return the layer of a name and type; None if there is none."""
    return next((layer for layer in viewer.layers if layer.name == name and isinstance(layer, kind)), None)


def cells_of(viewer: Viewer, image: Any) -> Any | None:
    """Return the Labels layer with the cells of an image layer; None if there is none."""
    labels = [layer for layer in viewer.layers if isinstance(layer, Labels)]
    own = [layer for layer in labels if noted(layer.metadata, "image") == image.name]
    named = [layer for layer in labels if layer.name == CELLS.format(image.name)]
    return next((layer for layer in own + named if layer.data.shape == _shape(image)), None)


def ensure_cells(viewer: Viewer, image: Any) -> Any:
    """Return the Labels layer with the cells of an image layer, created if there is none."""
    found = cells_of(viewer, image)
    if found is not None:
        return found
    return viewer.add_labels(
        np.zeros(_shape(image), np.int32),
        name=CELLS.format(image.name),
        metadata={METADATA: {"image": image.name}},
        **_placing(image, len(_shape(image))),
    )


def plane_labels(layer: Any, plane: Plane) -> I32:
    """Return the labels of a plane, (H, W) int32, as a copy."""
    labels: I32 = np.array(layer.data[plane.index], np.int32)
    return labels


def paint(layer: Any, plane: Plane, change: Change) -> None:
    """Change a Labels layer, as one step of its own history: Ctrl+Z undoes it in napari, as does ``layer.undo()``."""
    if len(change.values):
        leading = tuple(np.full(len(change.values), place) for place in plane.index)
        layer.data_setitem((*leading, change.rows, change.columns), change.values)


def show_preview(viewer: Viewer, image: Any, part: ImagePart, labels: I32, name: str) -> Any:
    """Show outlines of cells in a layer above the others, created if there is none.

    Args:
        viewer: the viewer.
        image: the image layer.
        part: the part of the image that was segmented.
        labels: (h, w), the cells.
        name: name of the layer.
    """
    placing = _placing(image, 2)
    placing["translate"] = placing["translate"] + placing["scale"] * np.array(part.extent[:2])
    layer = find_layer(viewer, name, Labels)
    if layer is None:
        active = viewer.layers.selection.active
        layer = viewer.add_labels(labels, name=name, opacity=1.0, **placing)
        layer.contour = 2
        viewer.layers.selection.active = active
    else:
        layer.data = labels
        layer.translate = placing["translate"]
    return layer


def remove_layer(viewer: Viewer, name: str, kind: type[Any] = Labels) -> None:
    """Remove a layer of this plugin; does nothing if there is none."""
    layer = find_layer(viewer, name, kind)
    if layer is not None:
        viewer.layers.remove(layer)


def ensure_boxes(viewer: Viewer, image: Any) -> Any:
    """Return the Shapes layer in which boxes are drawn, created if there is none, ready to draw rectangles."""
    layer = find_layer(viewer, BOXES, Shapes)
    if layer is None:
        layer = viewer.add_shapes(
            None, ndim=2, name=BOXES, face_color="transparent", edge_color="yellow", edge_width=1, **_placing(image, 2)
        )
    viewer.layers.selection.active = layer
    layer.mode = "add_rectangle"
    return layer


def outlines_on(image: Any, shapes: Any, rows: Sequence[int] | None = None) -> list[NDArray[np.float64]]:
    """Return the vertices of shapes, (N, 2) yx each, in data coordinates of an image layer.

    Args:
        image: the image layer.
        shapes: the Shapes layer.
        rows: the shapes; None for all.
    """
    chosen = range(len(shapes.data)) if rows is None else rows
    return [np.array([_on(image, shapes.data_to_world(vertex)) for vertex in shapes.data[row]]) for row in chosen]


def selected_rectangle(viewer: Viewer, image: Any) -> tuple[float, float, float, float]:
    """Return the bounding box of the selected shapes, or of all shapes of the layer if none is selected.

    Returns:
        Top, left, bottom, right, data coordinates of the image from the edge of its first pixel.

    Raises:
        InputError: there are no shapes.
    """
    layers = [layer for layer in viewer.layers if isinstance(layer, Shapes) and len(layer.data)]
    active = viewer.layers.selection.active
    layer = active if active in layers else next((one for one in reversed(layers) if one.name != BOXES), None)
    if layer is None:
        raise InputError(
            "the region is a selected rectangle, but no Shapes layer contains one; expected a rectangle over the "
            "image. Add a Shapes layer and draw one, or choose the whole image.",
            kind="missing",
            field="region",
        )
    corners = np.concatenate(outlines_on(image, layer, sorted(layer.selected_data) or None)) + 0.5
    return (*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist())


def visible_rectangle(image: Any) -> tuple[float, float, float, float] | None:
    """Return the part of an image layer that the canvas shows, as ``selected_rectangle``; None if it is unknown."""
    corners = np.array(image.corner_pixels, float)[:, -2:]
    if image.multiscale:
        corners = corners * np.asarray(image.downsample_factors)[image.data_level][-2:]
    if not (corners[1] > corners[0]).all():
        return None
    return (*corners[0].tolist(), *(corners[1] + 1).tolist())


def position_in(viewer: Viewer, image: Any) -> list[float]:
    """Return the position of the viewer in data coordinates of an image layer."""
    point: list[float] = image.world_to_data(viewer.dims.point[-image.ndim :]).tolist()
    return point


def plane_on_show(viewer: Viewer, image: Any) -> Plane:
    """Return the plane of an image layer that the viewer shows."""
    return plane_of(image, position_in(viewer, image))


def _shape(image: Layer) -> tuple[int, ...]:
    """Return the shape of the Labels layer of an image."""
    data = image.data[0] if image.multiscale else image.data
    return tuple(data.shape[:-1] if image.rgb else data.shape)


def _placing(image: Any, ndim: int) -> dict[str, Any]:
    """Return the attributes that put a layer over an image."""
    return {"scale": np.array(image.scale[-ndim:]), "translate": np.array(image.translate[-ndim:])}


def _on(image: Any, world: Sequence[float]) -> list[float]:
    """Return yx in data coordinates of an image for a point of the world, whose last axes are y and x."""
    point = np.zeros(image.ndim)
    point[-2:] = np.asarray(world)[-2:]
    found: list[float] = np.asarray(image.world_to_data(point))[-2:].tolist()
    return found
