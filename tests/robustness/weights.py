"""Damaged or invented checkpoints."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.robustness.base import Case, InputClass
from tests.robustness.mutations import edited, edits, replaced, replacements, values
from tests.small import PROMPTED, small_model
from training.checkpoint import METADATA_KEY, load_checkpoint, save_checkpoint

TINY = replace(PROMPTED, encoder_depth=2, global_attention_blocks=(1,))


@lru_cache(maxsize=1)
def _checkpoint() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.pt"
        save_checkpoint(path, small_model(TINY), licence="test weights")
        return path.read_bytes()


def checkpoints() -> SearchStrategy[Case]:
    """Draw damaged files, damaged records with correct checksums, and replaced contents."""
    parts = st.sampled_from(("file", "pickle", "metadata", "state"))
    return st.fixed_dictionaries({"part": parts, "edits": edits(), "tree": replacements(), "value": values()})


def _damaged_checkpoint(case: Case) -> bytes:
    whole = _checkpoint()
    if case["part"] == "file":
        return edited(whole, case["edits"])
    if case["part"] == "pickle":
        return _with_pickle(whole, case)
    content = torch.load(io.BytesIO(whole), weights_only=True)
    if case["part"] == "metadata":
        content[METADATA_KEY] = replaced(json.loads(json.dumps(content[METADATA_KEY])), case["tree"])
    else:
        state = content["state_dict"]
        names = sorted(state)
        for where, kind, value in case["tree"]:
            name = names[where % len(names)]
            if kind == "drop":
                state.pop(name, None)
            elif kind == "add":
                state[str(value)[:20]] = value
            elif kind == "scale" and isinstance(state.get(name), torch.Tensor):
                state[name] = state[name] * float("nan")
            else:
                state[name] = value
        if case["edits"][0][0] == "cut":
            content["state_dict"] = case["value"]
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _with_pickle(whole: bytes, case: Case) -> bytes:
    """Damage the pickled part but keep the checksums correct."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as given, zipfile.ZipFile(file, "w") as made:
        for info in given.infolist():
            content = given.read(info)
            is_pickle = info.filename.endswith("data.pkl")
            made.writestr(info.filename, edited(content, case["edits"]) if is_pickle else content)
    return file.getvalue()


def _check_checkpoint(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pt"
        path.write_bytes(_damaged_checkpoint(case))
        found = load_checkpoint(path)
        assert all(torch.isfinite(value).all() for value in found.model.state_dict().values())
        assert found.licence is not None


CLASSES = (InputClass("checkpoints", checkpoints, _check_checkpoint),)
