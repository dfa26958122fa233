"""The plugin in napari: manifest, reader, samples, writer, and the widget without a screen."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("NAPARI_CONFIG", "")  # the settings of this user stay as they are

napari: Any = pytest.importorskip("napari")

from napari.components import ViewerModel  # noqa: E402
from napari.utils.notifications import notification_manager  # noqa: E402
from npe2 import PluginManager, PluginManifest  # noqa: E402
from qtpy.QtCore import QTimer  # noqa: E402
from qtpy.QtWidgets import QApplication  # noqa: E402

from runtime import Segmenter, save  # noqa: E402
from runtime.config import SegmentConfig, with_overrides  # noqa: E402
from runtime.correction.project import Project  # noqa: E402
from runtime.engines.builtin import sample_images  # noqa: E402
from runtime.files.plain import read_image  # noqa: E402
from runtime.jobs.segmenter_spec import SegmenterSpec, loaded_segmenter  # noqa: E402
from runtime.napari import samples  # noqa: E402
from runtime.napari.controls import SELECTED  # noqa: E402
from runtime.napari.layers import BOX_PREVIEW, BOXES, PREVIEW, find_layer  # noqa: E402
from runtime.napari.painting import added, segmented_again  # noqa: E402
from runtime.napari.parts import centred  # noqa: E402
from runtime.napari.progress_lines import describe_failure, parse_progress  # noqa: E402
from runtime.napari.reader import find_reader  # noqa: E402
from runtime.napari.segment_widget import SegmentWidget  # noqa: E402

PLUGIN = "cellsam-engine"
ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "runtime" / "napari" / "napari.yaml"
PATIENCE_S = 300
DIAMETER_PX = 26.0


@pytest.fixture(scope="module")
def app() -> Any:
    return QApplication.instance() or QApplication([])


@pytest.fixture(scope="module")
def image() -> Any:
    """Nuclei, (H, W)."""
    path = next(path for path in sample_images() if path.name.startswith("u2os"))
    return np.asarray(read_image(path))[:160, :180]


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    """The engines of the widget."""
    return loaded_segmenter(SegmenterSpec())


@pytest.fixture(scope="module")
def config(segmenter: Segmenter) -> SegmentConfig:
    return with_overrides(segmenter.config, {"diameter_px": DIAMETER_PX})


@pytest.fixture(scope="module")
def result(segmenter: Segmenter, image: Any, config: SegmentConfig) -> Any:
    found = segmenter(image, config=config)
    assert len(found) > 5
    return found


@pytest.fixture
def viewer(image: Any) -> Any:
    """A viewer without a canvas, with one image."""
    model = ViewerModel()
    model.add_image(image, name="nuclei")
    return model


@pytest.fixture
def widget(app: Any, viewer: Any, segmenter: Segmenter) -> Iterator[SegmentWidget]:
    made = SegmentWidget(viewer)
    wait(app, lambda: made.status.text().startswith("Engines loaded"))
    made.controls.diameter.setValue(DIAMETER_PX)
    notification_manager.records.clear()
    yield made
    made.close()


@pytest.fixture(scope="module")
def plugins() -> Any:
    """Plugins of napari, of which this package's is registered from its manifest."""
    from napari.plugins import _initialize_plugins

    _initialize_plugins()
    manager = PluginManager.instance()
    if PLUGIN not in manager:
        manager.register(PluginManifest.from_file(MANIFEST))
    return manager


def wait(app: Any, finished: Callable[[], bool]) -> None:
    """Run the event loop of the window until something has happened."""
    end = time.monotonic() + PATIENCE_S
    while not finished():
        assert time.monotonic() < end, "the widget did not finish"
        app.processEvents()
        time.sleep(0.005)


def finish(app: Any, widget: SegmentWidget) -> None:
    wait(app, lambda: not widget.tasks.busy)


def messages() -> list[str]:
    return [one.message for one in notification_manager.records]


def box_vertices(box: Any) -> Any:
    """Return two corners, yx, of an xyxy box in pixels from edge to edge."""
    x0, y0, x1, y1 = box
    return np.array([[y0, x0], [y1, x1]]) - 0.5


# Manifest, reader, samples, writer.


def test_the_manifest_is_valid() -> None:
    command = [sys.executable, "-m", "npe2", "validate", "--imports", str(MANIFEST)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "valid" in done.stdout


def test_the_entry_point_names_the_manifest(plugins: Any) -> None:
    manifest = plugins.get_manifest(PLUGIN)
    assert manifest.display_name == "CellSAM Engine"
    assert "cellsam-engine.segment" in {one.command for one in manifest.contributions.widgets}


def test_napari_opens_results(plugins: Any, result: Any, image: Any, tmp_path: Path) -> None:
    names = ["a_labels.tif", "a_labels.ome.tif", "a_cells.geojson"]
    for name in names:
        save(result, tmp_path / name, image=image)
    save(result, tmp_path / "a_cells.csv")
    viewer = ViewerModel()
    for name in names:
        (layer,) = viewer.open(str(tmp_path / name), plugin=PLUGIN)
        assert layer.name.startswith("a cells")
        height, width = layer.data.shape
        np.testing.assert_array_equal(layer.data, result.labels[:height, :width])
        assert not result.labels[height:].any()
        assert not result.labels[:, width:].any()
        np.testing.assert_array_equal(layer.features["index"], np.arange(1, len(result) + 1))


def test_napari_opens_zarr(plugins: Any, result: Any, tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    save(result, tmp_path / "a.zarr")
    (layer,) = ViewerModel().open(str(tmp_path / "a.zarr"), plugin=PLUGIN)
    np.testing.assert_array_equal(layer.data, result.labels)
    assert layer.name == "a cells"


def test_other_files_are_left_to_other_readers(tmp_path: Path) -> None:
    (tmp_path / "other.zarr").mkdir()
    assert find_reader(str(tmp_path / "other.zarr")) is None
    assert find_reader(["a_labels.tif", "b.tif"]) is None
    assert find_reader(["a_labels.tif", "b_labels.tif"]) is not None


def test_every_sample_opens(plugins: Any) -> None:
    viewer = ViewerModel()
    for sample in plugins.get_manifest(PLUGIN).contributions.sample_data:
        viewer.open_sample(PLUGIN, sample.key)
    assert len(viewer.layers) == len(sample_images())
    for layer in viewer.layers:
        path = next(path for path in sample_images() if path.name == f"{layer.name}_img.png")
        np.testing.assert_array_equal(layer.data, read_image(path))


def test_napari_writes_projects_that_open(plugins: Any, viewer: Any, result: Any, image: Any, tmp_path: Path) -> None:
    labels = result.labels.copy()
    viewer.add_labels(labels, name="cells")
    path = tmp_path / "work.cellsam"
    viewer.layers.save(str(path), plugin=PLUGIN)
    labels[labels == 1] = 0
    viewer.layers.save(str(path), plugin=PLUGIN)
    with Project.open(path) as project:
        (name,) = project.names
        np.testing.assert_array_equal(project.labels(name), labels)
        np.testing.assert_array_equal(project.read(name).pixels.squeeze(), image)
        assert project.status(name).state == "corrected"
        assert project.status(name).undo_steps == 2
    opened, cells = ViewerModel().open(str(path / "project.json"), plugin=PLUGIN)
    np.testing.assert_array_equal(np.squeeze(opened.data), image)
    np.testing.assert_array_equal(cells.data, labels)


# Widget.


def test_the_widget_gives_the_labels_of_the_segmenter(app: Any, widget: SegmentWidget, result: Any) -> None:
    ticks: list[float] = []
    timer = QTimer()
    timer.timeout.connect(lambda: ticks.append(time.monotonic()))
    timer.start(10)
    widget.segment_button.click()
    assert widget.tasks.busy
    start = time.monotonic()
    finish(app, widget)
    timer.stop()
    assert len(ticks) > 2, f"the window waited for the engines, {time.monotonic() - start:.1f} s"
    (_, cells) = widget.viewer.layers
    np.testing.assert_array_equal(cells.data, result.labels)
    assert widget.status.text().startswith(f"Cells: {len(result)}")
    assert messages() == []
    cells.undo()
    assert not cells.data.any()


def test_a_selected_rectangle_is_segmented(
    app: Any, widget: SegmentWidget, segmenter: Segmenter, image: Any, config: SegmentConfig
) -> None:
    viewer = widget.viewer
    viewer.add_shapes([box_vertices([20, 10, 120, 110])], shape_type="rectangle", name="region")
    widget.controls.region.setCurrentText(SELECTED)
    widget.segment()
    finish(app, widget)
    cells = find_layer(viewer, "nuclei cells", napari.layers.Labels)
    expected = np.zeros_like(cells.data)
    expected[10:110, 20:120] = segmenter(image[10:110, 20:120], config=config).labels
    assert expected.any()
    np.testing.assert_array_equal(cells.data, expected)


def test_the_preview_follows_thresholds_without_encoding_again(
    app: Any, widget: SegmentWidget, segmenter: Segmenter, image: Any, config: SegmentConfig, monkeypatch: Any
) -> None:
    encoded = []
    real = Segmenter.encode
    monkeypatch.setattr(Segmenter, "encode", lambda *a, **k: encoded.append(1) or real(*a, **k))
    widget.live.setChecked(True)
    finish(app, widget)
    shown = find_layer(widget.viewer, PREVIEW, napari.layers.Labels)
    np.testing.assert_array_equal(shown.data, segmenter(image, config=config).labels)
    widget.controls.thresholds["box_threshold"].setValue(0.7)  # replaced at once by the next
    widget.controls.thresholds["box_threshold"].setValue(0.8)
    wait(app, lambda: widget.tasks.busy)
    finish(app, widget)
    strict = segmenter(image, config=with_overrides(config, {"box_threshold": 0.8}))
    np.testing.assert_array_equal(shown.data, strict.labels)
    assert encoded == [1]
    assert len(strict) < shown.data.size
    widget.live.setChecked(False)
    assert find_layer(widget.viewer, PREVIEW, napari.layers.Labels) is None


def test_boxes_are_previewed_confirmed_and_undone(app: Any, widget: SegmentWidget, result: Any) -> None:
    tool, viewer = widget.boxes, widget.viewer
    tool.draw_button.click()
    boxes = find_layer(viewer, BOXES, napari.layers.Shapes)
    boxes.add_rectangles(box_vertices(result.boxes[0]))
    wait(app, tool.confirm_button.isEnabled)
    preview = find_layer(viewer, BOX_PREVIEW, napari.layers.Labels).data
    mask, found = result.labels == 1, preview == 1
    assert (mask & found).sum() / (mask | found).sum() > 0.8
    tool.confirm_button.click()
    cells = find_layer(viewer, "nuclei cells", napari.layers.Labels)
    np.testing.assert_array_equal(cells.data, preview)
    assert len(boxes.data) == 0
    assert find_layer(viewer, BOX_PREVIEW, napari.layers.Labels) is None
    assert not tool.confirm_button.isEnabled()
    tool.undo_button.click()
    assert not cells.data.any()
    cells.redo()
    np.testing.assert_array_equal(cells.data, preview)
    assert messages() == []


def test_errors_are_notifications(app: Any, widget: SegmentWidget, tmp_path: Path) -> None:
    widget.controls.region.setCurrentText(SELECTED)
    widget.segment()
    assert "no Shapes layer contains one; expected a rectangle" in messages()[-1]
    widget.engines.directory.setText(str(tmp_path))
    widget.engines.load()
    finish(app, widget)
    assert "manifest.json" in messages()[-1]
    assert "expected" in messages()[-1]
    widget.viewer.layers.clear()
    widget.segment()
    assert "has no image layer" in messages()[-1]


def test_the_widget_saves_projects(app: Any, widget: SegmentWidget, result: Any, tmp_path: Path) -> None:
    widget.project.save(tmp_path / "none")
    assert "no image has cells" in messages()[-1]
    widget.viewer.add_labels(result.labels.copy(), name="nuclei cells")
    widget.project.save(tmp_path / "project")
    finish(app, widget)
    with Project.open(tmp_path / "project", read_only=True) as project:
        np.testing.assert_array_equal(project.labels("nuclei.tif"), result.labels)


SCRIPT = """
import sys, time
print('{"step": "train", "done": 3, "of": 10, "seconds_left": 120.0}', flush=True)
time.sleep(0.5)
print("engines in /somewhere")
"""


def test_improve_shows_progress_and_failures(app: Any, widget: SegmentWidget, tmp_path: Path) -> None:
    button = widget.project.improve
    widget.project._directory = tmp_path
    button._command = lambda _: [sys.executable, "-c", SCRIPT]
    button.press()
    wait(app, lambda: button.bar.value() == 3)
    assert button.bar.format() == "train: 3 of 10, about 2 min left"
    assert button.button.text() == "Stop"
    wait(app, lambda: not button.running)
    assert messages()[-1] == "engines in /somewhere"
    button._command = lambda _: [
        sys.executable,
        "-c",
        "import sys; print('error: no labels', file=sys.stderr); exit(1)",
    ]
    button.press()
    wait(app, lambda: not button.running)
    assert messages()[-1] == "no labels"
    button._command = lambda _: ["/no/such/program"]
    button.press()
    wait(app, lambda: not button.running)
    assert "cannot be started" in messages()[-1]


# Parts without Qt.


def test_lines_that_are_no_progress() -> None:
    assert parse_progress("saved") is None
    assert parse_progress("[1]") is None
    progress = parse_progress('{"step": "export", "done": 0, "of": 1, "seconds_left": null}')
    assert str(progress) == "export: 0 of 1"
    assert "training" in describe_failure("No such command 'improve'.", 2)
    assert "exit code 9" in describe_failure("", 9)


def test_cells_that_reach_beyond_the_part_stay() -> None:
    labels = np.zeros((6, 8), np.int32)
    labels[0:2, 0:2], labels[2:5, 3:7] = 4, 7
    found = np.array([[1, 1, 0, 2], [1, 1, 0, 2], [0, 0, 3, 3]], np.int32)
    change = segmented_again(labels, found, (0, 0, 3, 4))
    labels[change.rows, change.columns] = change.values
    np.testing.assert_array_equal(labels[:3, :4], [[8, 8, 0, 9], [8, 8, 0, 9], [0, 0, 10, 7]])
    assert (labels[2:5, 3:7] == 7).all()
    more = added(labels, np.ones((2, 2), np.int32), (1, 1, 3, 3))
    assert more.values.tolist() == [11, 11]


def test_long_sides_are_shortened_around_the_centre() -> None:
    assert centred((0, 10, 3000, 110), 1000) == (1000, 10, 2000, 110)


def test_samples_name_their_file() -> None:
    ((_, attributes, kind),) = samples.histology()
    assert kind == "image"
    assert attributes["rgb"]
    assert Path(attributes["metadata"]["cellsam_engine"]["path"]).is_file()
