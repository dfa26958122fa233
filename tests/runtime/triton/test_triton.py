"""The model repository for Triton, run on a double of its Python backend."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import Segmenter
from runtime.engines.builtin import builtin_engine, sample_images
from runtime.errors import BackendError, ConfigError, OutOfMemoryError
from runtime.files.plain import read_image
from runtime.triton.bls import BlsEngine
from runtime.triton.repository import RepositoryOptions, write_repository
from runtime.triton.requests import read_settings
from tests.test_readme import ROOT, run_blocks
from tests.triton_double import Server, python_model

OPTIONS = RepositoryOptions(max_batch=2, max_boxes=24, most_requests=4)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("triton") / "repository"
    write_repository(builtin_engine(), out, OPTIONS)
    return out


@pytest.fixture
def server(repository: Path) -> Server:
    return Server(repository)


@pytest.fixture
def model(server: Server) -> Iterator[Any]:
    with python_model(server, "cellsam", sys.modules) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def segmenter() -> Iterator[Segmenter]:
    with Segmenter(backend="cpu", boxes_per_call=24, images_per_call=2) as loaded:
        yield loaded


def crop(name: str, size: int = 150) -> NDArray[np.float32]:
    """(H, W, C) float32 part of a sample image."""
    path = next(path for path in sample_images() if path.name.startswith(name))
    image = np.asarray(read_image(path), np.float32)
    image = image if image.ndim == 3 else image[..., None]
    return np.ascontiguousarray(image[:size, : size + 20])


def outputs(response: Any) -> dict[str, NDArray[Any]]:
    assert not response.has_error(), response.error().message()
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors}


def test_results_are_those_of_the_segmenter(server: Server, model: Any, segmenter: Segmenter) -> None:
    """Images of several sizes and numbers of channels share the calls."""
    images = [crop("fluorescence"), crop("u2os", 120), crop("histology", 100)]
    responses = model.execute([server.ask("cellsam", {"image": image[None]}) for image in images])
    for image, response in zip(images, responses, strict=True):
        found, expected = outputs(response), segmenter(image)
        assert len(expected) > 1
        np.testing.assert_array_equal(found["labels"][0], expected.labels)
        np.testing.assert_allclose(found["cell_boxes"][0], expected.boxes, atol=1e-3)
        np.testing.assert_allclose(found["scores"][0], expected.scores, atol=1e-5)
        server.models["cellsam"].check("output", found)


def test_boxes_of_concurrent_requests_share_decoder_calls(server: Server, model: Any) -> None:
    image = crop("u2os")
    boxes = np.array([[20.0, 20, 60, 60], [70, 70, 110, 110]])
    given = [{"image": part[None], "boxes": boxes[None]} for part in (image, image[:130], image[:, :130])]
    settings = {"view_diameter_px": 0}  # one view per image
    decoder = server.models["cellsam_mask_decoder"].calls
    for one in given:
        model.execute([server.ask("cellsam", one, **settings)])
    alone = len(decoder)
    decoder.clear()
    model.execute([server.ask("cellsam", one, **settings) for one in given])
    assert (alone, len(decoder)) == (3, 1)
    assert decoder[0]["boxes_xyxy_model"] == (6, 4)
    assert decoder[0]["image_embedding"][0] == 3


def test_no_call_exceeds_the_limits(server: Server, model: Any) -> None:
    model.execute([server.ask("cellsam", {"image": crop("fluorescence", 300)[None]})])
    assert max(call["boxes_xyxy_model"][0] for call in server.models["cellsam_mask_decoder"].calls) <= 24
    assert max(call["pixel_values"][0] for call in server.models["cellsam_encoder"].calls) <= 2


def test_a_bad_request_fails_alone(server: Server, model: Any, segmenter: Segmenter) -> None:
    image = crop("u2os", 100)
    bad = np.full_like(image, np.nan)
    asked = [
        server.ask("cellsam", {"image": image[None]}),
        server.ask("cellsam", {"image": bad[None]}),
        server.ask("cellsam", {"image": image[None]}, box_threshold="7"),
        server.ask("cellsam", {"image": image[None]}, boxes_threshold="0.2"),
        server.ask("cellsam", {"image": image[None]}, diameter_px="30", invert=True),
    ]
    good, nan, out_of_range, unknown, other = model.execute(asked)
    np.testing.assert_array_equal(outputs(good)["labels"][0], segmenter(image).labels)
    changed = read_settings('{"diameter_px": "30", "invert": true}', segmenter.config)
    np.testing.assert_array_equal(outputs(other)["labels"][0], segmenter(image, config=changed).labels)
    for response, words in ((nan, "NaN"), (out_of_range, "box_threshold is 7"), (unknown, "'boxes_threshold' is unk")):
        assert words in response.error().message()
        assert response.error().code() == server.utils.TritonError.INVALID_ARG


def test_several_images_in_one_request_are_rejected(server: Server, model: Any) -> None:
    (response,) = model.execute([server.ask("cellsam", {"image": np.zeros((2, 32, 32, 1), np.float32)})])
    assert "one request per image" in response.error().message()


def test_failures_of_the_networks_are_named(server: Server, model: Any) -> None:
    server.failing["cellsam_encoder"] = "instance is unavailable"
    (response,) = model.execute([server.ask("cellsam", {"image": crop("u2os", 64)[None]})])
    assert "cellsam_encoder failed: instance is unavailable" in response.error().message()
    assert response.error().code() == server.utils.TritonError.INTERNAL


def test_memory_errors_let_the_pipeline_halve_a_call(server: Server, segmenter: Segmenter) -> None:
    spec = segmenter.manifest.engines["encoder"]
    engine = BlsEngine(server.utils, "cellsam_encoder", spec, {"pixel_values": 2})
    feeds = {"pixel_values": np.zeros((1, 3, 512, 512), np.float32)}
    server.failing["cellsam_encoder"] = "BFC arena: Failed to allocate memory for requested buffer"
    with pytest.raises(OutOfMemoryError, match="--max-batch"):
        engine.run(feeds)
    server.failing["cellsam_encoder"] = "shape mismatch"
    with pytest.raises(BackendError, match="server's log"):
        engine.run(feeds)


def test_an_existing_model_stays(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cellsam_encoder exists"):
        write_repository(builtin_engine(), repository, OPTIONS)
    names = write_repository(builtin_engine(), tmp_path, RepositoryOptions(name="other"))
    assert names == ["other_encoder", "other_cellfinder", "other_mask_decoder", "other"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_triton_page(tmp_path: Path) -> None:
    assert run_blocks(ROOT / "docs" / "triton.md", tmp_path) == {"bash": 1}
    assert (tmp_path / "repository" / "cellsam" / "1" / "model.py").is_file()


@pytest.mark.parametrize("given", [{"name": "a/b"}, {"max_batch": 0}, {"max_boxes": 1.5}, {"most_requests": -1}])
def test_wrong_options_are_rejected(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(given))):
        RepositoryOptions(**given)
