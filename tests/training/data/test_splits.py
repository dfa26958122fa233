"""Tests of grouping, the 80-10-10 draw, duplicates, and neighbours found by their borders."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.data import borders
from training.data.borders import borders_of, neighbours
from training.data.records import SPLITS
from training.data.splits import Candidate, assign_splits, content_hash, draw_splits

GROUP_SIZES = st.dictionaries(st.text(min_size=1, max_size=4), st.integers(1, 30), max_size=40)


def candidate(image_id: str, **values: object) -> Candidate:
    return Candidate(image_id=image_id, image_hash=str(values.pop("image_hash", image_id)), **values)  # type: ignore[arg-type]


@given(GROUP_SIZES, st.integers(0, 9))
def test_draw_holds_out_about_a_tenth_and_never_parts_a_group(sizes: dict[str, int], seed: int) -> None:
    splits = draw_splits(sizes, seed=seed)
    assert splits.keys() == sizes.keys()
    assert draw_splits(dict(reversed(sizes.items())), seed=seed) == splits
    if len(sizes) < 3:
        assert set(splits.values()) <= {"train"}
        return
    assert set(splits.values()) == set(SPLITS)
    quota = max(1, round(0.1 * sum(sizes.values())))
    for split in ("val", "test"):
        held = [sizes[name] for name in sizes if splits[name] == split]
        assert sum(held) <= quota or len(held) == 1


def test_draw_of_single_images_is_80_10_10_and_the_seed_matters() -> None:
    sizes = {f"image {i}": 1 for i in range(200)}
    drawn = [draw_splits(sizes, seed=seed) for seed in (0, 1)]
    assert [Counter(splits.values()) for splits in drawn] == [{"train": 160, "val": 20, "test": 20}] * 2
    assert drawn[0] != drawn[1]


def test_a_large_group_is_never_held_out() -> None:
    for seed in range(20):
        assert draw_splits({"large": 50, **{f"g{i}": 5 for i in range(10)}}, seed=seed)["large"] == "train"


@given(st.lists(st.sampled_from("abcdefghij"), min_size=3, max_size=40), st.randoms())
def test_fields_of_one_object_set_share_a_split(sets: list[str], random: object) -> None:
    candidates = [candidate(f"i{i:02d}", object_set=name) for i, name in enumerate(sets)]
    assigned = assign_splits(candidates, seed=3)
    for name in set(sets):
        assert len({assigned[c.image_id].split for c in candidates if c.object_set == name}) == 1
    random.shuffle(candidates)  # type: ignore[attr-defined]
    assert assign_splits(candidates, seed=3) == assigned


def test_equal_images_and_equal_labels_are_one_object_set() -> None:
    candidates = [candidate(f"i{i:02d}") for i in range(30)]
    candidates += [
        candidate("x", image_hash="i00"),
        candidate("y", labels_hash="same"),
        candidate("z", labels_hash="same"),
    ]
    assigned = assign_splits(candidates, seed=0)
    assert assigned["x"] == assigned["i00"]
    assert assigned["y"] == assigned["z"]
    assert assigned["y"].object_set == "y"


def test_published_splits_are_kept_and_duplicates_across_them_go_to_train() -> None:
    candidates = [
        candidate("a", split="train", image_hash="1"),
        candidate("b", split="test", image_hash="1"),
        candidate("c", split="val", image_hash="2"),
        candidate("d", split="test", image_hash="2"),
        candidate("e", split="test", image_hash="3"),
        candidate("f", split="test", image_hash="3"),
        candidate("g", split="val"),
    ]
    splits = {image_id: item.split for image_id, item in assign_splits(candidates, seed=0).items()}
    assert splits == {"a": "train", "b": "train", "c": "train", "d": "train", "e": "test", "f": "test", "g": "val"}


def test_content_hash_tells_values_shape_and_dtype_apart() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    others = [image + 1, image.reshape(4, 3), image.astype(np.int16), image[:, ::-1]]
    assert len({content_hash(array) for array in (image, *others)}) == 5
    assert content_hash(image[:, ::-1][:, ::-1]) == content_hash(image)


def smooth_field(seed: int) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(np.random.default_rng(seed).normal(size=(240, 288)), 3)


def test_neighbours_are_found_and_strangers_are_not() -> None:
    fields = [smooth_field(seed) for seed in range(3)]
    quarters = [field[y : y + 120, x : x + 144] for field in fields for y in (0, 120) for x in (0, 144)]
    expected = sorted((4 * f + i, 4 * f + j) for f in range(3) for i, j in ((0, 1), (2, 3), (0, 2), (1, 3)))
    assert neighbours([borders_of(quarter) for quarter in quarters]) == expected
    assert neighbours([borders_of(field) for field in fields]) == []


def test_neighbours_in_chunks_are_the_same(monkeypatch: object) -> None:
    quarters = [smooth_field(s)[y : y + 120, x : x + 144] for s in range(4) for y in (0, 120) for x in (0, 144)]
    lines = [borders_of(quarter) for quarter in quarters]
    whole = neighbours(lines)
    monkeypatch.setattr(borders, "_CHUNK", 3)  # type: ignore[attr-defined]
    assert neighbours(lines) == whole


def test_flat_borders_and_other_sizes_never_match() -> None:
    flat = borders_of(np.zeros((20, 20)))
    assert neighbours([flat, flat, borders_of(np.zeros((20, 21)))]) == []


def test_tiles_of_one_field_share_a_split() -> None:
    fields = [smooth_field(seed) for seed in range(12)]
    candidates = [
        candidate(f"f{f:02d}q{q}", borders=borders_of(field[y : y + 120, x : x + 144]))
        for f, field in enumerate(fields)
        for q, (y, x) in enumerate((y, x) for y in (0, 120) for x in (0, 144))
    ]
    assigned = assign_splits(candidates, seed=0)
    for f in range(12):
        assert len({(assigned[f"f{f:02d}q{q}"].split, assigned[f"f{f:02d}q{q}"].object_set) for q in range(4)}) == 1
    assert Counter(item.split for item in assigned.values()) == {"train": 40, "val": 4, "test": 4}


def test_no_test_split_is_drawn_where_none_is_wanted() -> None:
    splits = draw_splits({f"g{n}": 1 for n in range(50)}, seed=0, held_out=("val",))
    assert sorted(set(splits.values())) == ["train", "val"]
    assert list(splits.values()).count("val") == 5
    assert set(draw_splits({"a": 1, "b": 1}, seed=0, held_out=("val",)).values()) == {"train", "val"}
