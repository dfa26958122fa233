"""Commands that install missing extras from the origin of this installation."""

from __future__ import annotations

import json
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution

NAME = "cellsam-engine"


def install_command(extra: str) -> str:
    """Return the pip command that adds an extra of this package.

    The command names the folder, archive or repository that the package was installed from. The package name alone is
    enough only if it came from a package index.

    Source: PyPA specification "Recording the Direct URL Origin of installed distributions".
    """
    return f"pip install {_requirement(extra)}"


@cache
def _requirement(extra: str) -> str:
    try:
        origin = json.loads(distribution(NAME).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        origin = {}
    url = str(origin.get("url", ""))
    if not url:
        return f"'{NAME}[{extra}]'"
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        return f"'{NAME}[{extra}] @ {vcs['vcs']}+{url}@{vcs.get('requested_revision') or vcs['commit_id']}'"
    if "dir_info" in origin:
        from urllib.parse import urlsplit
        from urllib.request import url2pathname  # takes long to import

        editable = "-e " if origin["dir_info"].get("editable") else ""
        return f"{editable}'{url2pathname(urlsplit(url).path)}[{extra}]'"
    return f"'{NAME}[{extra}] @ {url}'"
