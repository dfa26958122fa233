"""The browser page: a real server, a real browser, and the server's API as the judge."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright", reason="the page is driven with Playwright")
from playwright.sync_api import Browser

from benchmarks.page_frames import LIMIT_MS, measure
from benchmarks.server_process import CHROMIUM, ServerProcess, browser
from runtime.server.client import Client
from tests.hosts.page_driver import PageDriver

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

SAMPLE = Path(__file__).parents[2] / "runtime" / "samples" / "fluorescence_img.png"
IMAGES = ("segment", "box", "draw", "cells", "undo", "conflict", "gone", "unfinished", "export", "fit", "display")
"""Names of the images; each test changes one of its own."""

Square = tuple[int, int, int]
"""Left, top and side."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("page")
    with Image.open(SAMPLE) as sample:
        for name in IMAGES:
            sample.crop((0, 0, 160, 120)).save(made / f"{name}.png")
    return made


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    with ServerProcess("label", str(folder), "--no-browser", "--backend", "cpu") as running:
        yield running


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as running:
        yield running


@pytest.fixture
def api(server: ServerProcess) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


@pytest.fixture
def show(server: ServerProcess, chromium: Browser, api: Client) -> Iterator[Callable[[str], tuple[PageDriver, str]]]:
    """Open the page at an image by name; return the page and the id of the image."""
    opened: list[PageDriver] = []

    def open_page(name: str) -> tuple[PageDriver, str]:
        key = next(image.id for image in api.images() if image.name == f"{name}.png")
        opened.append(PageDriver(chromium, server.address, key))
        return opened[-1], key

    yield open_page
    for page in opened:
        page.close()


Show = Callable[[str], tuple[PageDriver, str]]


def add_squares(api: Client, key: str, *squares: Square) -> None:
    """Make cells 1, 2, ... through the API."""
    for left, top, side in squares:
        corners = [[left, top], [left + side, top], [left + side, top + side], [left, top + side]]
        edit = {"operation": "add", "shape": {"polygon": corners}, "label": None}
        api.edit(key, api.image(key).revision, edit)


def areas(api: Client, key: str) -> dict[int, int]:
    """Return the area of each cell on the server."""
    counts = np.bincount(api.project_labels(key).ravel())
    return {int(label): int(counts[label]) for label in np.flatnonzero(counts) if label}


def test_an_image_is_segmented_with_progress(show: Show, api: Client) -> None:
    page, key = show("segment")
    page.page.click("#segment-one")
    page.until(lambda: api.image(key).state == "segmented")
    page.until("cellsamPage.store.cells.size > 0")
    assert page.areas == areas(api, key)
    assert page.text(f"[data-image='{key}'] .chip") == "segmented"
    page.until("document.getElementById('job').hidden")
    assert "The image is segmented." in page.text("#messages")
    assert page.text("#counts").split("\n")[:2] == ["In this image", str(len(page.areas))]


def test_a_box_becomes_a_cell(show: Show, api: Client) -> None:
    page, key = show("box")
    (x0, y0, x1, y1) = box = (53, 24, 90, 58)  # around the large cell
    page.press("t")
    page.drag([(x0, y0), (x1, y1)])
    page.until(lambda: api.image(key).cells == 1)
    page.saved()
    ys, xs = np.nonzero(api.project_labels(key))
    assert len(xs) > 100
    assert box[0] - 4 <= xs.min() < xs.max() <= box[2] + 4
    assert box[1] - 4 <= ys.min() < ys.max() <= box[3] + 4
    assert page.selection == [1]
    assert page.areas == areas(api, key)


def test_brush_eraser_and_polygons_draw(show: Show, api: Client) -> None:
    page, key = show("draw")
    page.press("b")
    page.drag([(30, 30), (60, 30)])
    page.saved()
    assert page.selection == [1]
    drawn = areas(api, key)[1]
    assert drawn == pytest.approx(30 * 12 + np.pi * 36, rel=0.1)  # a stroke of radius 6

    page.press("x")  # the eraser
    page.drag([(45, 20), (45, 40)])
    page.saved()
    assert areas(api, key)[1] < drawn - 100
    page.press("k")  # only the largest part stays
    assert areas(api, key)[1] < drawn / 2

    page.press("Escape", "p")
    for corner in ((80, 60), (120, 60), (120, 100), (80, 100)):
        page.click(corner)
    page.press("Enter")
    assert areas(api, key)[2] == pytest.approx(1600, abs=90)
    page.press("Shift+p")
    page.drag([(95, 75), (105, 75), (105, 85), (95, 85), (95, 76)])  # freehand; it closes itself at its beginning
    page.press("Enter")
    assert areas(api, key)[2] == pytest.approx(1500, abs=90)
    page.press("g")  # fill the hole
    assert areas(api, key)[2] == pytest.approx(1600, abs=90)
    assert page.areas == areas(api, key)


def test_cells_are_edited_by_keys(show: Show, api: Client) -> None:
    _, key = show("cells")
    add_squares(api, key, (10, 10, 20), (40, 10, 20), (80, 50, 40))
    page, key = show("cells")
    page.click((20, 20))
    assert page.selection == [1]
    page.press("Shift+q")
    assert areas(api, key)[1] > 400
    page.press("q")
    assert areas(api, key)[1] == pytest.approx(400, abs=8)
    page.click((50, 20), held="Shift")
    before = areas(api, key)
    page.press("s")
    after = areas(api, key)
    assert (after[1], after[2]) == (before[2], before[1])
    page.press("r")
    assert len(areas(api, key)) == 2
    assert sum(areas(api, key).values()) == sum(after.values())

    page.press("Escape", "w")
    page.click((85, 70))
    page.click((115, 70))
    assert len(areas(api, key)) == 3
    page.press("Escape", "v")
    page.click((85, 70))
    page.press("Shift+W")
    page.drag([(75, 70), (125, 70)])
    page.saved()
    assert len(areas(api, key)) == 4
    assert len(page.selection) == 2  # both parts
    page.press("Backspace")
    assert len(areas(api, key)) == 2
    page.press("Shift+Enter")
    assert api.image(key).state == "done"
    assert page.areas == areas(api, key)

    last, undone = areas(api, key), 0
    while page.page.is_enabled("#command-undo"):
        page.press("Control+z")
        undone += 1
    assert undone >= 3 + 7  # the squares, and the edits above
    assert page.areas == areas(api, key) == {}
    while page.page.is_enabled("#command-redo"):
        page.press("Control+Shift+z")
    assert page.areas == areas(api, key) == last


def test_undo_and_redo_have_no_limit_and_survive_reloading(show: Show, api: Client) -> None:
    page, key = show("undo")
    page.press("b")
    states = [areas(api, key)]
    for row in range(4):
        page.press("n")
        page.drag([(20, 20 + 25 * row), (120, 20 + 25 * row)])
        page.saved()
        states.append(areas(api, key))
    assert [len(state) for state in states] == [0, 1, 2, 3, 4]
    page.open(key)
    assert page.areas == states[-1]
    for state in reversed(states[:-1]):
        page.press("Control+z")
        assert page.areas == areas(api, key) == state
    assert page.page.is_disabled("#command-undo")
    for state in states[1:]:
        page.press("Control+Shift+z")
        assert page.areas == areas(api, key) == state
    assert page.page.is_disabled("#command-redo")


def test_a_change_by_another_is_shown_and_a_conflict_keeps_the_drawing(show: Show, api: Client) -> None:
    page, key = show("conflict")
    add_squares(api, key, (10, 10, 20))
    page.until("cellsamPage.store.cells.size === 1")  # told by an event

    page.page.route(
        "**/outlines?*", lambda route: route.abort()
    )  # the page hears of the next change, but does not see it
    add_squares(api, key, (40, 10, 20))
    page.page.wait_for_timeout(300)
    page.page.unroute("**/outlines?*")
    page.press("b")
    page.drag([(90, 60), (120, 60)])
    page.until(lambda: "changed elsewhere" in page.text("#messages"))
    assert sorted(areas(api, key)) == [1, 2]
    page.until("cellsamPage.store.cells.size === 2")
    assert "not saved" in page.text("#saved")
    page.page.click("#messages button:text-is('Try again')")
    page.saved()
    assert sorted(areas(api, key)) == sorted(page.areas) == [1, 2, 3]


def test_changes_wait_for_a_server_that_is_gone(show: Show, api: Client, server: ServerProcess) -> None:
    page, key = show("gone")
    server.stop()
    page.until("!document.getElementById('banner').hidden")
    assert "The server does not answer" in page.text("#banner")
    page.page.keyboard.press("b")
    page.drag([(30, 30), (60, 30)])
    page.until(lambda: "waiting for the server" in page.text("#saved"))
    server.start(server.port)
    page.saved()
    page.until("document.getElementById('banner').hidden")
    assert sorted(areas(api, key)) == sorted(page.areas) == [1]


def test_an_unfinished_outline_is_not_lost(show: Show, api: Client) -> None:
    page, key = show("unfinished")
    page.press("p")
    for corner in ((20, 20), (60, 20), (60, 60)):
        page.click(corner)
    page.press("a")  # the previous image
    assert page.value("cellsamPage.store.image.id") == key
    assert "not finished" in page.text("#messages")
    page.page.click("#messages button:text-is('Finish')")
    page.saved()
    assert areas(api, key)[1] == pytest.approx(800, abs=60)
    page.press("a")
    page.until(f"cellsamPage.store.image.id !== '{key}'")


def test_a_cell_takes_the_outline_that_the_model_finds(show: Show, api: Client) -> None:
    _, key = show("fit")
    add_squares(api, key, (54, 25, 34))  # a square around the large cell
    page, key = show("fit")
    page.click((71, 41))
    page.press("m")
    fitted = areas(api, key)
    assert list(fitted) == [1]
    assert 300 < fitted[1] < 34 * 34
    page.press("Control+z")
    assert areas(api, key) == {1: 34 * 34}


def test_outlines_and_pixels_are_shown_as_chosen(show: Show, api: Client) -> None:
    _, key = show("display")
    add_squares(api, key, (40, 40, 20))
    page, key = show("display")
    outlines = "cellsamPage.outlines.front.canvas"
    page.until(f"!{outlines}.hidden")
    page.press("o")
    assert page.value(f"{outlines}.hidden")
    page.press("o")
    page.until(f"!{outlines}.hidden")
    page.page.fill("#opacity", "0.5")
    assert page.value(f"{outlines}.style.opacity") == "0.5"
    scale = page.value("cellsamPage.view.place.scale")
    page.press("]", "f")
    assert page.selection == [1]
    page.until(f"cellsamPage.view.place.scale > 1.5 * {scale}")
    shown = "cellsamPage.view.items().length === 1 && cellsamPage.view.items()[0].source.queryParams.join()"
    page.until(f"{shown}.includes('contrast=auto')")
    page.page.focus("#high-0")
    page.page.keyboard.press("ArrowLeft")
    page.until(f"{shown}.match(/contrast=[0-9.]+%3A[0-9.]+/) !== null")
    page.page.keyboard.press("c")
    page.until(f"{shown}.includes('contrast=auto')")
    assert "1 cells" in page.text(f"[data-image='{key}']")


@pytest.mark.parametrize("width", [420, 760, 1000])
def test_nothing_is_cut_off_in_a_narrow_window(show: Show, width: int) -> None:
    page, _ = show("export")
    page.page.set_viewport_size({"width": width, "height": 700})
    page.page.wait_for_timeout(200)
    outside = page.value("""() => [...document.querySelectorAll("button, input, select")].filter((one) => {
        const { left, right, width } = one.getBoundingClientRect();
        return width && (left < 0 || right > innerWidth);
    }).map((one) => one.outerHTML)""")
    assert outside == []
    stage = page.page.locator("#stage").bounding_box()
    assert stage is not None
    assert stage["width"] > 400
    assert stage["height"] > 300


def test_cells_are_exported(show: Show, api: Client, tmp_path: Path) -> None:
    page, key = show("export")
    add_squares(api, key, (10, 10, 20), (40, 10, 20))
    page.until("cellsamPage.store.cells.size === 2")
    page.page.select_option("#export-format", "geojson")
    with page.page.expect_download() as download:
        page.page.click("#export-one")
    found = json.loads(Path(download.value.path()).read_text())
    assert len(found["features"]) == 2
    page.page.select_option("#export-format", "tiff")
    with page.page.expect_download() as download:
        page.page.click("#export-all")
    shutil.unpack_archive(download.value.path(), tmp_path, "zip")
    assert (tmp_path / "export_labels.tif").is_file()


def test_every_control_has_a_name_and_every_command_a_key(show: Show) -> None:
    page, _ = show("export")
    nameless = page.value("""[...document.querySelectorAll("button, input, select, [role=application]")].filter((one) =>
        !(one.ariaLabel || one.labels?.length || one.textContent.trim())).map((one) => one.outerHTML)""")
    assert nameless == []
    page.page.keyboard.press("?")
    page.until("document.getElementById('help').open")
    keys = set(page.text("#help").split())
    assert {"B", "E", "X", "K", "G", "W", "T", "M", "Q", "Shift+Q", "R", "S", "N", "Ctrl+Z"} <= keys
    page.page.keyboard.press("Escape")
    page.until("!document.getElementById('help').open")


def test_segmenting_all_images_asks_and_can_be_stopped(show: Show, api: Client) -> None:
    page, _ = show("segment")
    page.page.click("#segment-all")
    page.until("document.getElementById('confirm').open")
    assert "Segmenting replaces their cells" in page.text("#confirm")
    page.page.click("#confirm button:text-is('Segment all')")
    page.until(lambda: page.text("#job").startswith(f"1 of {len(IMAGES)}"))
    page.page.click("#job-cancel")
    page.until("document.getElementById('job').hidden")
    page.until("document.getElementById('messages').textContent.includes('Segmenting was stopped after')")
    states = [image.state for image in api.images()]
    assert "segmented" in states
    assert "corrected" in states


def test_two_thousand_cells_move_smoothly(chromium: Browser) -> None:
    found = measure(chromium, seconds=2)
    assert found["image"]["cells"] == 2000
    for panned in found["panning"].values():
        assert panned["frames"] > 20
        assert panned["frame_ms"]["p50"] <= LIMIT_MS
