"""The documented Python API of TensorRT, and a base class that allows nothing else."""

from __future__ import annotations

import json
from enum import IntEnum
from pathlib import Path
from typing import Any

API: dict[str, Any] = json.loads((Path(__file__).parent / "api.json").read_text("utf-8"))["versions"]

VERSIONS = {"10.3.0": "10.3.0", "11.1": "11.1.0.106"}
"""Documented versions, and their ``tensorrt.__version__``."""

RTX = "rtx-1.7.1"
"""TensorRT for RTX, as its own bindings describe it."""
MODULE_VERSIONS = {**VERSIONS, RTX: "1.7.1.116"}

ENUM_VALUES = {
    # NvInfer.h: in 11.x it has the former value of EXPLICIT_BATCH.
    ("10.3.0", "NetworkDefinitionCreationFlag"): {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1},
    ("11.1", "NetworkDefinitionCreationFlag"): {"STRONGLY_TYPED": 0},
    (RTX, "EngineInvalidityDiagnostics"): {
        name: 1 << place for place, name in enumerate(API[RTX]["enums"]["EngineInvalidityDiagnostics"])
    },
}


def make_enum(version: str, name: str) -> Any:
    """Create an enumeration with the documented members."""
    members = ENUM_VALUES.get((version, name))
    return IntEnum(name, members or {member: i for i, member in enumerate(API[version]["enums"][name])})


class Strict:
    """A class that rejects setting attributes not documented as properties."""

    documented: str
    """Name of the class in the documentation."""
    version: str

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_"):
            kind = API[self.version]["classes"][self.documented].get(name)
            if kind != "property":
                raise AttributeError(f"{self.documented} {self.version} has no property {name!r} that can be set")
        object.__setattr__(self, name, value)
