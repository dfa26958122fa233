"""Settings in messages are replaced by flags."""

from __future__ import annotations

import logging

import pytest

from runtime.commands.flags import FlagFormatter, in_flags


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("box_threshold is 2; expected a value in [0, 1].", "--box-threshold is 2; expected a value in [0, 1]."),
        ("x.tif exist; pass overwrite=True to replace them.", "x.tif exist; pass --overwrite to replace them."),
        ("Choose it: time=0..3 and z=0..4.", "Choose it: --time 0..3 and --z 0..4."),
        ("z=-1 was given, expected 0 to 2.", "--z -1 was given, expected 0 to 2."),
        ("Choose one with series= (0: a; 1: b).", "Choose one with --series (0: a; 1: b)."),
        ("for example series='A/1/0'.", "for example --series A/1/0."),
        ("one time point, some workers; ask out loud", "one time point, some workers; ask out loud"),
        ("normalize=False takes low_res_masks as they are", "normalize=False takes low_res_masks as they are"),
    ],
)
def test_settings_become_flags(message: str, shown: str) -> None:
    assert in_flags(message) == shown
    record = logging.LogRecord("runtime", logging.WARNING, __file__, 1, "%s", (message,), None)
    assert FlagFormatter("%(name)s: %(message)s").format(record) == f"runtime: {shown}"


def test_commands_have_flags_of_their_own() -> None:
    assert in_flags("export with precision='fp32'", {"precision": "--precision"}) == "export with --precision fp32"
