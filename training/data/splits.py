"""Assignment of source images to splits.

Rules of CellSAM (Israel et al. 2023), Appendix A: published splits are kept. Other datasets are split 80-10-10, with
all fields of one object set in one split. An image that occurs in several published splits goes to train.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.borders import Borders, neighbours
from training.data.records import Split

HELD_OUT_SHARE = 0.1  # of the fields, for each split that is held out
HELD_OUT: tuple[Split, ...] = ("val", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """Properties of a source image that decide its split."""

    image_id: str
    image_hash: str
    split: Split | None = None
    """The published split."""
    object_set: str | None = None
    labels_hash: str | None = None
    """Equal labels are taken as the same objects, in another focal plane or exposure."""
    borders: Borders | None = None
    """Used if the object set is not known."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """Split and object set of a source image."""

    split: Split
    object_set: str


def content_hash(array: NDArray[Any]) -> str:
    """Return the hexadecimal SHA-256 of dtype, shape and values."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def assign_splits(
    candidates: Sequence[Candidate], *, seed: int, held_out: Sequence[Split] = HELD_OUT
) -> dict[str, Assignment]:
    """Assign every source image to a split; the order of the candidates does not matter.

    Args:
        candidates: the images of one dataset, with distinct image ids.
        seed: changes the 80-10-10 draw.
        held_out: the splits to draw besides train.

    Returns:
        The assignment of each image id.
    """
    ordered = sorted(candidates, key=lambda item: item.image_id)
    drawn = group_object_sets([item for item in ordered if item.split is None])
    group_split = draw_splits({name: len(members) for name, members in drawn.items()}, seed=seed, held_out=held_out)
    out = {item.image_id: Assignment(item.split, item.object_set or item.image_id) for item in ordered if item.split}
    for name, members in drawn.items():
        out.update((image_id, Assignment(group_split[name], name)) for image_id in members)
    copies: dict[str, list[str]] = defaultdict(list)
    for item in ordered:
        copies[item.image_hash].append(item.image_id)
    for image_ids in copies.values():
        if len({out[image_id].split for image_id in image_ids}) > 1:
            out.update((image_id, Assignment("train", out[image_id].object_set)) for image_id in image_ids)
    return out


def group_object_sets(candidates: Sequence[Candidate]) -> dict[str, list[str]]:
    """Group images that show the same objects.

    Images belong together if they name the same object set, are equal or have equal labels. If the object set is not
    known, images that continue each other at a border also belong together.

    Args:
        candidates: sorted by image id.

    Returns:
        Members (image ids) by group; the name of a group is its first object set or image id in sorted order.
    """
    sets = _DisjointSets(range(len(candidates)))
    seen: dict[Hashable, int] = {}
    for index, item in enumerate(candidates):
        for kind, key in (("set", item.object_set), ("image", item.image_hash), ("labels", item.labels_hash)):
            if key is not None:
                sets.join(seen.setdefault((kind, key), index), index)
    unknown = [(i, item.borders) for i, item in enumerate(candidates) if item.object_set is None and item.borders]
    for first, second in neighbours([borders for _, borders in unknown]):
        sets.join(unknown[first][0], unknown[second][0])
    groups = [[candidates[i] for i in members] for members in sets.groups()]
    return {
        min(item.object_set or item.image_id for item in members): [item.image_id for item in members]
        for members in groups
    }


def draw_splits(group_sizes: dict[str, int], *, seed: int, held_out: Sequence[Split] = HELD_OUT) -> dict[str, Split]:
    """Draw 80-10-10 over groups, by images, in the order of a seeded hash of the group names.

    A group goes to a held-out split if it fits into that split's tenth of the images, else to train, so a large group
    is never held out by accident. With more groups than held-out splits, no split stays empty.

    Args:
        group_sizes: number of images by group.
        seed: changes the order.
        held_out: splits that get a tenth each; the rest is train.
    """
    order = sorted(group_sizes, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    out: dict[str, Split] = dict.fromkeys(order, "train")
    if len(order) <= len(held_out):
        return out
    quota = max(1, round(HELD_OUT_SHARE * sum(group_sizes.values())))
    room: dict[Split, int] = dict.fromkeys(held_out, quota)
    for name in order:
        for split in room:
            if group_sizes[name] <= room[split]:
                out[name] = split
                room[split] -= group_sizes[name]
                break
    for split in (split for split in room if split not in out.values()):
        spare = [name for name in order if list(out.values()).count(out[name]) > 1]
        out[min(spare, key=group_sizes.__getitem__)] = split
    return out


class _DisjointSets:
    """Union-find over 0..n-1."""

    def __init__(self, items: Iterable[int]) -> None:
        self._parent = list(items)

    def _root(self, item: int) -> int:
        while self._parent[item] != item:
            self._parent[item] = item = self._parent[self._parent[item]]
        return item

    def join(self, first: int, second: int) -> None:
        """Put two items into one set."""
        self._parent[self._root(second)] = self._root(first)

    def groups(self) -> list[list[int]]:
        """Return the sets, each in ascending order."""
        out: dict[int, list[int]] = defaultdict(list)
        for item in range(len(self._parent)):
            out[self._root(item)].append(item)
        return list(out.values())
