"""Groups become options of a command, with the names, defaults and panels of their fields."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Annotated, Any

import typer
from typer.testing import CliRunner

from runtime.commands.app import app
from runtime.commands.flags import in_flags
from runtime.commands.groups import flags_of, with_groups
from runtime.commands.options import FLAGS, SegmentOptions
from runtime.config import SegmentConfig
from runtime.jobs.slides import SlideSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    """A nested group."""

    side_px: Annotated[int | None, typer.Option("--side", "-s", help="Side.")] = None
    loud: Annotated[bool, typer.Option("--loud", help="Shout.")] = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    """A group that contains another group."""

    inner: Inner
    names: Annotated[list[str] | None, typer.Option(help="Names.")] = None


def test_a_command_receives_its_groups() -> None:
    received: list[Any] = []
    small = typer.Typer()

    @small.command()
    @with_groups
    def command(word: str, outer: Outer, count: int = 1) -> None:
        received.append((word, outer, count))

    run = CliRunner().invoke
    assert run(small, ["a", "-s", "3", "--names", "x", "--names", "y", "--count", "2"]).exit_code == 0
    assert run(small, ["b", "--loud"]).exit_code == 0
    assert received == [
        ("a", Outer(inner=Inner(side_px=3), names=["x", "y"]), 2),
        ("b", Outer(inner=Inner(loud=True)), 1),
    ]
    assert run(small, ["c", "--none"]).exit_code == 2
    assert flags_of(Outer) == {"side_px": "--side", "loud": "--loud", "names": "--names"}


def test_every_setting_of_a_segmentation_has_an_option() -> None:
    without = {"normalize", "whole_view_diameter_px", "tiles_together", "retries"}
    settings = {field.name for kind in (SegmentConfig, SlideSettings) for field in fields(kind)}
    assert settings - FLAGS.keys() == without


def test_messages_speak_of_options() -> None:
    assert in_flags("diameter_px is 0; pass overwrite=True.") == "--diameter is 0; pass --overwrite."
    assert in_flags("overlap_px 9 and tile_px 4, rgb=True") == "--tile-overlap 9 and --tile-size 4, --rgb"
    for kept in ("/data/tile_px/min_area_px.tif is empty", "overwrite and rgb alone", "no_such_name=True"):
        assert in_flags(kept) == kept


def test_help_shows_the_common_options_first() -> None:
    """At 80 columns, twelve options come before the panels, and no line is cut."""
    shown = CliRunner().invoke(app, ["segment", "-h"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).stdout
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    panels = [match[1] for line in lines if (match := re.match(r"╭─ (.*?) ─+╮", line))]
    assert [panel.split(":")[0].split(" (")[0] for panel in panels] == [
        *("Arguments", "Options", "Model", "Scale", "Input", "Thresholds", "Slides", "Output", "Machine")
    ]
    common = shown.split("╭─ Options")[1].split("╭─ Model")[0]
    assert len(re.findall(r"^│ +--", common, re.MULTILINE)) == 12
    assert "…" not in shown
    flags = set(re.findall(r"--[a-z][a-z-]*", shown))
    assert set(flags_of(SegmentOptions).values()) <= flags
