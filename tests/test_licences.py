"""Which licences pass; reading those of the base install needs the package index (``make licences``)."""

from __future__ import annotations

import pytest

from tests import licences
from tests.licences import is_permissive, main


@pytest.mark.parametrize(
    "licence",
    [
        *("MIT", "MIT License", "MIT-CMU", "BSD", "BSD License", "BSD-3-Clause", "3-Clause BSD License", "PSF-2.0"),
        *("Apache Software License", "Apache 2.0", "ISC License (ISCL)", "Python Software Foundation License"),
        "BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0",
        "BSD-2-Clause AND Apache-2.0 WITH LLVM-exception",
        "Apache Software License; BSD License",
        "MIT OR GPL-3.0-only",
        "BSD-3-Clause AND GPL-3.0-or-later WITH GCC-exception-3.1",
        "Historical Permission Notice and Disclaimer (HPND)",
    ],
)
def test_permissive(licence: str) -> None:
    assert is_permissive(licence)


@pytest.mark.parametrize(
    "licence",
    [
        *("UNKNOWN", "", "Proprietary", "Dual License", "LICENSE.txt"),
        *("GPL-2.0-only", "LGPL-3.0-or-later", "AGPL-3.0", "MPL-2.0", "EPL-2.0", "CC-BY-SA-4.0"),
        "GNU General Public License v3 (GPLv3)",
        "Mozilla Public License 2.0 (MPL 2.0)",
        "GNU Library or Lesser General Public License (LGPL)",
        "MIT AND LGPL-2.1-or-later",
        "MIT License; GNU General Public License v2 (GPLv2)",
        "(MIT OR GPL-3.0-only) AND MPL-2.0",
        "GPL-3.0-or-later",
    ],
)
def test_not_permissive(licence: str) -> None:
    assert not is_permissive(licence)


def test_what_fails_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"Name": "numpy", "Version": "2.4", "License": "BSD-3-Clause"},
        {"Name": "chardet", "Version": "5.2", "License": "LGPL-2.1-or-later"},
    ]
    monkeypatch.setattr(licences, "read_licences", lambda python: rows)
    assert main(["--python", "python"]) == 1
    shown = capsys.readouterr()
    assert shown.out == "numpy 2.4: BSD-3-Clause\nchardet 5.2: LGPL-2.1-or-later\n"
    assert shown.err.startswith("chardet 5.2 has licence 'LGPL-2.1-or-later'; expected a permissive one.")
    del rows[1]
    assert main(["--python", "python"]) == 0
    del rows[0]
    assert main(["--python", "python"]) == 1
