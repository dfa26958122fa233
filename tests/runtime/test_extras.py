"""Commands that install extras."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from runtime import extras
from runtime.extras import install_command


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, "pip install 'cellsam-engine[rtx]'"),
        ("not JSON", "pip install 'cellsam-engine[rtx]'"),
        ({"url": "file:///src/my%20clone", "dir_info": {}}, "pip install '/src/my clone[rtx]'"),
        ({"url": "file:///src", "dir_info": {"editable": True}}, "pip install -e '/src[rtx]'"),
        (
            {"url": "https://host/r.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "pip install 'cellsam-engine[rtx] @ git+https://host/r.git@abc'",
        ),
        (
            {"url": "https://host/c.whl", "archive_info": {}},
            "pip install 'cellsam-engine[rtx] @ https://host/c.whl'",
        ),
    ],
)
def test_commands_name_where_the_package_came_from(
    monkeypatch: pytest.MonkeyPatch, origin: object, expected: str
) -> None:
    text = origin if isinstance(origin, str | None) else json.dumps(origin)
    monkeypatch.setattr(extras, "distribution", lambda name: SimpleNamespace(read_text=lambda file: text))
    extras._requirement.cache_clear()
    try:
        assert install_command("rtx") == expected
    finally:
        extras._requirement.cache_clear()
