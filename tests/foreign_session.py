"""A double for sessions that run elsewhere than asked: onnxruntime's session, except for what it says of itself."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.engines.backends import ort

CPU = "CPUExecutionProvider"


class ForeignSession:
    """A session that reports other providers than it has."""

    def __init__(self, session: Any, provider: str, options: dict[str, str]) -> None:
        self._session, self._provider, self._options = session, provider, options

    def get_providers(self) -> list[str]:
        return [self._provider, CPU]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {self._provider: self._options, CPU: {}}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def report_other_providers(patch: pytest.MonkeyPatch, provider: str, **options: str) -> None:
    """Let sessions that are opened from now on report a provider with options, then the CPU."""
    opened = ort.open_session
    patch.setattr(
        ort, "open_session", lambda *given, **named: ForeignSession(opened(*given, **named), provider, options)
    )
