"""Writing of an engine as an ONNX file."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path

import onnx
import torch
from torch.export import Dim

from export.engine_files import EngineGraph

OPSET = 20
"""Has LayerNormalization and Gelu as single operators; TensorRT 10 and 11 both parse it."""

MAX_DIM = 1 << 16


def write_onnx(engine: EngineGraph, path: Path) -> None:
    """Export one engine with its weights inside a single file, and check the file.

    The graph is not optimised: each backend does this itself when it loads the file.
    """
    dims: dict[str, Dim] = {}
    shapes = tuple(
        {axis: dims.setdefault(name, Dim(name, min=1, max=MAX_DIM)) for axis, name in engine.dynamic[key].items()}
        for key in engine.inputs
    )
    graph = engine.graph.eval().requires_grad_(False)
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            graph,
            tuple(engine.inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(engine.inputs),
            output_names=list(engine.outputs),
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    _strip(proto)
    onnx.save_model(proto, path)
    onnx.checker.check_model(path)


def _strip(proto: onnx.ModelProto) -> None:
    """Remove records of the exporter's run: stack traces, with paths of this machine."""
    proto.graph.doc_string = ""
    del proto.graph.metadata_props[:]
    del proto.metadata_props[:]
    for node in proto.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        value.doc_string = ""
        del value.metadata_props[:]


@contextlib.contextmanager
def _quiet():  # type: ignore[no-untyped-def]
    """Keep the exporter's log out of the command's output; errors are still raised."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
