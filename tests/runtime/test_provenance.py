"""Records of what made a result: equal texts for equal records, and nothing lost in flat pairs."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from runtime import Provenance
from runtime.provenance import EngineRun, distinct, from_pairs, to_json, to_jsonable, to_pairs
from runtime.typed_json import convert

NAMES = st.from_regex(r"[a-z_]{1,12}", fullmatch=True)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20)
RUNS = st.builds(EngineRun, device=TEXTS, providers=st.lists(NAMES, min_size=1, max_size=3).map(tuple), precision=TEXTS)
RECORDS = st.builds(
    Provenance,
    version=TEXTS,
    model=TEXTS,
    model_sha256=st.none() | TEXTS,
    backend=TEXTS,
    engines=st.dictionaries(NAMES, RUNS, max_size=4),
    libraries=st.dictionaries(NAMES, TEXTS, max_size=3),
)


@given(RECORDS)
def test_a_record_is_the_same_after_every_round_trip(record: Provenance) -> None:
    assert convert(json.loads(to_json([record])), tuple[Provenance, ...]) == (record,)
    assert convert([from_pairs(to_pairs(record))], tuple[Provenance, ...]) == (record,)
    assert to_json([record]).isascii()


@given(st.lists(RECORDS, max_size=4), st.randoms())
def test_records_are_listed_once_and_in_one_order(records: list[Provenance], random: object) -> None:
    copies = [*records, None, *(replace(one, engines=dict(reversed(one.engines.items()))) for one in records)]
    shuffled = sorted(copies, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert to_json(distinct(shuffled)) == to_json(distinct(records))
    assert len(distinct(copies)) == len({to_json([one]) for one in records})


def test_pairs_are_readable() -> None:
    run = EngineRun(
        device="NVIDIA L4 (SM 8.9)", providers=("CUDAExecutionProvider", "CPUExecutionProvider"), precision="fp16"
    )
    record = Provenance(
        version="0.1.0",
        model="mine",
        model_sha256=None,
        backend="cuda",
        engines={"encoder": run},
        libraries={"onnxruntime": "1.31.1"},
    )
    assert to_pairs(record) == {
        "version": "0.1.0",
        "model": "mine",
        "backend": "cuda",
        "engines.encoder.device": "NVIDIA L4 (SM 8.9)",
        "engines.encoder.providers": "CUDAExecutionProvider, CPUExecutionProvider",
        "engines.encoder.precision": "fp16",
        "libraries.onnxruntime": "1.31.1",
    }
    assert to_jsonable([record])[0]["engines"]["encoder"]["providers"] == list(run.providers)
