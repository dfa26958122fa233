"""The page in a browser, used as a user would, for tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, Request

WAIT_S = 90.0
"""Longest wait for an effect: other programs may occupy the machine."""

Point = tuple[float, float]


class PageDriver:
    """One open page, used as a user would: by keys and the pointer."""

    def __init__(self, running: Browser, address: str, image: str) -> None:
        """Open the page at an image."""
        self.address, self.faults, self.foreign = address, [], []  # type: str, list[str], list[str]
        self.page: Page = running.new_page(viewport={"width": 1280, "height": 800})
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", self._requested)
        self.open(image)

    def _heard(self, message: ConsoleMessage) -> None:
        # Chromium reports answers such as 409 as errors; the page shows them in words.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.faults.append(message.text)

    def _requested(self, request: Request) -> None:
        if not request.url.startswith((f"{self.address}/", "data:", f"blob:{self.address}/")):
            self.foreign.append(request.url)

    def open(self, image: str) -> None:
        """Load the page, and wait for its pixels."""
        self.page.goto(f"{self.address}/#image={image}")
        self.page.reload()
        self.until(f"cellsamPage.store.image?.id === '{image}'")
        self.until("cellsamPage.view.items().length > 0 && cellsamPage.view.items()[0].getFullyLoaded()")
        self.page.wait_for_timeout(200)

    def value(self, script: str, argument: Any = None) -> Any:
        """Evaluate a script; its policy lets the page itself evaluate none."""
        return self.page.evaluate(script, argument)

    def until(self, condition: str | Callable[[], bool], wait_s: float = WAIT_S) -> None:
        """Wait until a script or a function returns true."""
        end = time.monotonic() + wait_s
        while not (condition() if callable(condition) else self.value(condition)):
            shown = self.text("#messages")
            assert time.monotonic() < end, f"{condition!r} is not true after {wait_s:.0f} s; messages: {shown!r}"
            self.page.wait_for_timeout(50)

    def saved(self) -> None:
        """Wait until the server has all changes."""
        self.until("cellsamPage.changes.unsaved === 0 && !cellsamPage.changes.sending")

    def press(self, *keys: str) -> None:
        """Press keys, each when the changes of the one before are saved."""
        for key in keys:
            self.page.keyboard.press(key)
            self.saved()

    def text(self, selector: str) -> str:
        """Return the text of an element."""
        return self.page.inner_text(selector)

    @property
    def selection(self) -> list[int]:
        """Labels of the chosen cells."""
        labels: list[int] = self.value("cellsamPage.store.selection")
        return labels

    @property
    def areas(self) -> dict[int, int]:
        """Areas of the cells that the page shows, by label."""
        pairs = self.value("[...cellsamPage.store.cells.values()].map((cell) => [cell.label, cell.area])")
        return dict(pairs)

    def _screen(self, point: Point) -> Point:
        script = """([x, y]) => {
            const { view } = cellsamPage, { left, top, scale } = view.place;
            const frame = view.element.getBoundingClientRect();
            return [frame.left + (x - left) * scale, frame.top + (y - top) * scale];
        }"""
        x, y = self.value(script, list(point))
        return x, y

    def click(self, point: Point, *, held: str | None = None) -> None:
        """Click at a point in image pixels."""
        self.page.mouse.move(*self._screen(point))
        if held:
            self.page.keyboard.down(held)
        self.page.mouse.down()
        self.page.mouse.up()
        if held:
            self.page.keyboard.up(held)
        self.saved()

    def drag(self, points: Sequence[Point]) -> None:
        """Drag along points in image pixels."""
        first, *others = [self._screen(point) for point in points]
        self.page.mouse.move(*first)
        self.page.mouse.down()
        for point in others:
            self.page.mouse.move(*point, steps=5)
        self.page.mouse.up()

    def close(self) -> None:
        """Close the page; it must have had no fault, and no request to another host."""
        self.page.close()
        assert self.faults == []
        assert self.foreign == []
