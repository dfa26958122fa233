"""Editing sessions killed at random moments; ``python -m benchmarks.edit_kills`` does it more often."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.edit_kills import kill_sessions


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_killed_session_loses_the_edit_in_flight_at_most(tmp_path: Path) -> None:
    *_, outcome = kill_sessions(tmp_path / "work", kills=3, seed=7)
    assert outcome.problems == []
    assert outcome.kills == 3
    assert outcome.confirmed > 0
