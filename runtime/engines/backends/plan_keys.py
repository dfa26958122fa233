"""Keys of TensorRT plans, and of the machines that run them: the GPUs and versions that plans are bound to."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, Literal

PlanBackend = Literal["tensorrt", "tensorrt-rtx"]
"""Backends that run plans; each keeps them in the subdirectory of its name."""


class Key:
    """The GPUs and versions that plans are bound to. The key of a machine describes what plans must fit."""

    __slots__ = ()
    backend: ClassVar[PlanBackend]

    def differences(self, machine: Key) -> list[str]:
        """Return what keeps plans with this key from running on a machine; empty if they fit."""
        raise NotImplementedError

    def directory_name(self, precision: str) -> str:
        """Return the name of the directory for plans with this key. Args: precision: further part of the name."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanKey(Key):
    """The GPU and the versions that plans of TensorRT are bound to."""

    backend: ClassVar[PlanBackend] = "tensorrt"

    gpu: str
    """Name of the GPU."""
    sm: str
    """Compute capability of the GPU, such as "9.0"."""
    driver: str
    """Newest CUDA version that the driver supports, as the CUDA runtime reports it; the driver's own version and its
    patches do not count."""
    tensorrt: str
    cuda: str
    """Major version of the CUDA runtime."""

    def __str__(self) -> str:
        built_with = f"TensorRT {self.tensorrt}, CUDA {self.cuda}, driver for CUDA up to {self.driver}"
        return f"{self.gpu} (SM {self.sm}), {built_with}"

    def differences(self, machine: Key) -> list[str]:
        """See ``Key``; every field must be equal."""
        return [f.name for f in fields(self) if getattr(self, f.name) != getattr(machine, f.name)]

    def directory_name(self, precision: str) -> str:
        """See ``Key``."""
        parts = (f"sm{self.sm}", f"trt{self.tensorrt}", f"cuda{self.cuda}", f"driver{self.driver}", precision)
        return _joined((self.gpu, *parts))


@dataclass(frozen=True, kw_only=True, slots=True)
class RtxKey(Key):
    """The version of TensorRT for RTX and the compute capabilities that its plans are for."""

    backend: ClassVar[PlanBackend] = "tensorrt-rtx"

    rtx: str
    """Version of TensorRT for RTX; a plan runs with this one only."""
    capabilities: tuple[str, ...]
    """Compute capabilities, such as ("8.6", "8.9"); for a machine, that of its GPU."""

    def __str__(self) -> str:
        return f"TensorRT for RTX {self.rtx}, compute capability {', '.join(self.capabilities)}"

    def differences(self, machine: Key) -> list[str]:
        """See ``Key``; the GPU's compute capability must be among those of the plans."""
        assert isinstance(machine, RtxKey)
        found = [] if self.rtx == machine.rtx else ["rtx"]
        return found if {*machine.capabilities} <= {*self.capabilities} else [*found, "capabilities"]

    def directory_name(self, precision: str) -> str:
        """See ``Key``."""
        return _joined((f"rtx{self.rtx}", f"sm{'-'.join(self.capabilities)}", precision))


KEYS: dict[PlanBackend, type[PlanKey] | type[RtxKey]] = {key.backend: key for key in (PlanKey, RtxKey)}
"""Key by the backend that runs the plans."""


LIBRARIES: dict[PlanBackend, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT for RTX"}
"""Name of the library by backend, for messages."""


def build_command(directory: Path, device: int = 0, backend: PlanBackend = "tensorrt") -> str:
    """Return the command that builds the plans of an engine directory for a GPU of this machine."""
    options = {"backend": None if backend == "tensorrt" else backend, "device": device or None}
    given = (f" --{name} {value}" for name, value in options.items() if value is not None)
    return f"cellsam-engine build {directory}{''.join(given)}"


def _joined(parts: Iterable[str]) -> str:
    return "+".join(re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-") for part in parts)
