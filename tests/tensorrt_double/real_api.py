"""The API of NVIDIA's bindings in the form of the double's ``api.json``: classes, their members, enumerations.

    python -m tests.tensorrt_double.real_api tensorrt_rtx_bindings

prints it as JSON. The bindings of TensorRT itself come without the library. They are therefore imported over stubs of
it, in a separate process, because none of their functions may be called.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import re
import subprocess
import sys
import tempfile
from enum import EnumType
from pathlib import Path
from typing import Any

ENTRY_POINTS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
"""Functions of the library that the bindings refer to."""


def describe(module: Any) -> dict[str, Any]:
    """Describe the members of each class: ``property``, or for a method the argument names of each overload."""
    classes: dict[str, Any] = {}
    enums: dict[str, list[str]] = {}
    for name, value in [*vars(module).items(), ("Severity", module.ILogger.Severity)]:
        if hasattr(value, "__members__") and not isinstance(value, EnumType):
            enums[name] = sorted(value.__members__)
        elif isinstance(value, type):
            members = {member for base in value.__mro__[:-1] for member in vars(base)}
            classes[name] = {member: _describe(getattr(value, member), member) for member in sorted(members)}
    return {"classes": classes, "enums": enums}


def _describe(member: Any, name: str) -> Any:
    if isinstance(member, property):
        return "property"
    signatures = re.findall(rf"^(?:\d+\. )?{re.escape(name)}\((self: .*)\) ->", member.__doc__ or "", re.MULTILINE)
    return [[name for name in _arguments(text) if name != "self"] for text in signatures]


def _arguments(text: str) -> list[str]:
    """Parse the names in ``self: A, shape: tuple[int, int] = (1, 2)``, whose types and defaults may contain commas."""
    depth, names, start = 0, [], 0
    for place, character in enumerate(f"{text},"):
        depth += (character in "[(<") - (character in "])>")
        if character == "," and not depth:
            names.append(text[start:place].split(":")[0].strip())
            start = place + 1
    return names


def load_over_stubs() -> Any:
    """Import the bindings of TensorRT 11, over stub libraries that only have its entry points."""
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "stub.c"
        source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in ENTRY_POINTS))
        for library in ("libnvinfer.so.11", "libnvinfer_plugin.so.11", "libnvonnxparser.so.11"):
            path = Path(place) / library
            subprocess.run(["cc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", path, source], check=True)
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        return importlib.import_module("tensorrt_bindings")


if __name__ == "__main__":
    name = sys.argv[1]
    print(json.dumps(describe(load_over_stubs() if name == "tensorrt_bindings" else importlib.import_module(name))))
