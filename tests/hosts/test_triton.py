"""The model repository against the messages of Triton's client and the tensors of the ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from google.protobuf import text_format

from runtime.engines.builtin import builtin_engine
from runtime.triton.repository import RepositoryOptions, write_repository

model_config_pb2: Any = pytest.importorskip("tritonclient.grpc.model_config_pb2")

OPTIONS = RepositoryOptions(max_batch=3, max_boxes=24, most_requests=5)
TYPES = {"TYPE_FP32": "tensor(float)", "TYPE_INT64": "tensor(int64)"}


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Any]:
    """Every configuration of a repository, by the directory of its model."""
    out = tmp_path_factory.mktemp("triton")
    names = write_repository(builtin_engine(), out, OPTIONS)
    read = {name: text_format.Parse((out / name / "config.pbtxt").read_text(), _message()) for name in names}
    return {out / name: config for name, config in read.items()}


def _message() -> Any:
    return model_config_pb2.ModelConfig()


def test_names_are_those_of_the_directories(configs: dict[Path, Any]) -> None:
    assert [config.name for config in configs.values()] == [directory.name for directory in configs]
    assert [config.backend for config in configs.values()] == [*["onnxruntime"] * 3, "python"]


def test_tensors_are_those_of_the_onnx_files(configs: dict[Path, Any]) -> None:
    checked = 0
    for directory, config in configs.items():
        if config.backend != "onnxruntime":
            continue
        session = onnxruntime.InferenceSession(directory / "1" / "model.onnx")
        for described, nodes in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
            assert [port.name for port in described] == [node.name for node in nodes]
            for port, node in zip(described, nodes, strict=True):
                lengths = [one if isinstance(one, int) else -1 for one in node.shape]
                leading = [-1] if config.max_batch_size else []
                assert [*leading, *port.dims] == lengths, f"{config.name}.{port.name}"
                assert TYPES[model_config_pb2.DataType.Name(port.data_type)] == node.type
                checked += 1
    assert checked == 3 + 3 + 7


def test_only_the_decoder_is_not_batched_by_triton(configs: dict[Path, Any]) -> None:
    batches = {config.name: config.max_batch_size for config in configs.values()}
    assert batches == {"cellsam_encoder": 3, "cellsam_cellfinder": 3, "cellsam_mask_decoder": 0, "cellsam": 5}
    assert [config.HasField("dynamic_batching") for config in configs.values()] == [True, True, False, True]


def test_requests_of_several_sizes_share_a_batch(configs: dict[Path, Any]) -> None:
    *_, segmenter = configs.values()
    image, boxes = segmenter.input
    assert (image.allow_ragged_batch, image.optional) == (True, False)
    assert (boxes.allow_ragged_batch, boxes.optional) == (True, True)
    assert [port.name for port in segmenter.output] == ["labels", "cell_boxes", "scores"]
