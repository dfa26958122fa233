"""The Dockerfile, its entry point, the compose file and the deployment files, as far as they show without Docker."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dockerfile_parse import DockerfileParser

from runtime.commands.plugins import OWN

ROOT = Path(__file__).parents[1]
TARGETS = ("cpu", "cuda", "tensorrt", "triton")
SERVERS = ("cpu", "cuda", "tensorrt")


@pytest.fixture(scope="module")
def stages() -> dict[str, list[dict[str, Any]]]:
    """Instructions of each stage, including those that it inherits from other stages."""
    found: dict[str, list[dict[str, Any]]] = {}
    parsed = DockerfileParser(fileobj=(ROOT / "Dockerfile").open("rb"))
    for step in parsed.structure:
        if step["instruction"] == "FROM":
            parent, name = re.fullmatch(r"(\S+) AS (\S+)", step["value"]).groups()  # type: ignore[union-attr]
            found[name] = [*found.get(parent, []), step]
        elif step["instruction"] != "COMMENT":
            found[name].append(step)
    return found


def values(steps: list[dict[str, Any]], instruction: str) -> list[str]:
    return [step["value"] for step in steps if step["instruction"] == instruction]


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert hadolint is not None
    done = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_base_images_are_pinned_to_a_release(stages: dict[str, Any]) -> None:
    images = [value.split()[0] for steps in stages.values() for value in values(steps, "FROM")]
    outside = [image for image in images if image not in stages]
    assert outside
    assert all(re.search(r":\d+\.\d+[\w.-]*$", image) for image in outside), outside


@pytest.mark.parametrize("target", TARGETS)
def test_containers_run_without_rights_and_report_their_health(stages: dict[str, Any], target: str) -> None:
    steps = stages[target]
    user = int(values(steps, "USER")[-1])
    assert user > 0
    assert len(values(steps, "HEALTHCHECK")) == 1
    assert values(steps, "CMD")
    written = [value for value in values(steps, "RUN") if "warm-up" in value]
    assert written, "compiled loops are part of the image"


def test_the_default_target_is_the_cpu(stages: dict[str, Any]) -> None:
    assert list(stages)[-1] == "cpu"


def test_copied_paths_exist_and_reach_the_build(stages: dict[str, Any]) -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = []
    for value in {value for steps in stages.values() for value in values(steps, "COPY")}:
        *sources, _ = [word for word in value.split() if not word.startswith("--")]
        copied += sources
    assert set(copied) == set(kept)
    assert all((ROOT / path).exists() for path in copied)


@pytest.mark.parametrize("target", SERVERS)
def test_health_is_asked_where_the_server_listens(stages: dict[str, Any], target: str) -> None:
    steps = stages[target]
    (command,) = values(steps, "CMD")
    port = re.search(r'"--port", "(\d+)"', command)
    assert port is not None
    (check,) = values(steps, "HEALTHCHECK")
    assert f"http://127.0.0.1:{port[1]}/health" in check
    assert port[1] in values(steps, "EXPOSE")
    code = re.search(r'"-c", "(.*)"\]', check)
    assert code is not None
    compile(code[1], "health", "exec")


def test_commands_of_the_images_exist(stages: dict[str, Any]) -> None:
    used = {name for steps in stages.values() for run in values(steps, "RUN") for name in _commands(run)}
    assert used == {"warm-up"}
    assert used <= set(OWN)


def _commands(run: str) -> list[str]:
    return re.findall(r"cellsam-engine ([a-z-]+)", run)


def run_entrypoint(tmp_path: Path, loops: Path) -> subprocess.CompletedProcess[str]:
    """Run the entry point with a stand-in for the command, which prints its arguments."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "cellsam-engine"
    command.write_text('#!/bin/sh\necho "got $@"\n')
    command.chmod(0o755)
    (tmp_path / "built" / "ops_1").mkdir(parents=True)
    (tmp_path / "built" / "ops_1" / "loop.nbi").write_text("compiled")
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "NUMBA_CACHE_DIR": str(loops),
        "CELLSAM_LOOPS": str(tmp_path / "built"),
    }
    script = ROOT / "docs" / "deploy" / "entrypoint.sh"
    return subprocess.run([script, "info", "a b"], env=environment, capture_output=True, text=True, check=False)


def test_the_entry_point_copies_compiled_loops(tmp_path: Path) -> None:
    done = run_entrypoint(tmp_path, tmp_path / "tmp" / "loops")
    assert (done.returncode, done.stdout, done.stderr) == (0, "got info a b\n", "")
    assert (tmp_path / "tmp" / "loops" / "ops_1" / "loop.nbi").read_text() == "compiled"


def test_the_entry_point_works_without_a_writable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run_entrypoint(tmp_path, tmp_path / "file" / "loops")
    assert (done.returncode, done.stdout, done.stderr) == (0, "got info a b\n", "")


def test_services_are_read_only_and_without_rights(stages: dict[str, Any]) -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert set(services) == {"cpu", "gpu"}
    for service in services.values():
        assert service["build"]["target"] in stages
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "/tmp" in service["tmpfs"]
        assert service["ports"] == ["127.0.0.1:8080:8080"]
        assert "CELLSAM_TOKEN" in service["environment"]


def test_kserve_serves_the_repository_with_triton() -> None:
    service = yaml.safe_load((ROOT / "docs" / "deploy" / "kserve.yaml").read_text())
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    model = service["spec"]["predictor"]["model"]
    assert model["modelFormat"] == {"name": "triton"}
    assert model["image"].endswith(":triton")
