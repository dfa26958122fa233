"""The decision on a new engine: bootstrap, rules, and real scores of a poisoned project."""

from __future__ import annotations

import numpy as np
import pytest

from export.improve.decision import CONFIDENCE, Pair, change_of, decide
from export.improve.folds import ENOUGH, few, make_folds
from export.improve.scoring import package_samples
from runtime import Segmenter
from runtime.types import I32
from training.evaluation.dataset import read_sample
from training.evaluation.matching import Counts, count_matches, find_overlaps

BAD, GOOD = Counts(5, 5, 5), Counts(8, 2, 2)
SAME = Pair((GOOD,) * 4, (GOOD,) * 4)


def test_the_change_sums_counts_over_images() -> None:
    found = change_of(Pair((BAD, GOOD), (GOOD, GOOD)))
    assert (found.images, found.cells) == (2, 20)
    assert found.old_f1 == pytest.approx(26 / 40)
    assert found.new_f1 == pytest.approx(32 / 40)
    assert found.gain == pytest.approx(6 / 40)
    assert found.better == pytest.approx(0.75, abs=0.02), "unless both draws are the second image"


def test_the_bootstrap_is_paired_and_repeatable() -> None:
    rng = np.random.default_rng(3)
    old = tuple(Counts(int(n), 50 - int(n), 50 - int(n)) for n in rng.integers(5, 45, 8))
    new = tuple(Counts(one.tp + 1, one.fp - 1, one.fn - 1) for one in old)
    found = change_of(Pair(old, new))
    assert found.better == 1.0, "images differ much more than the engines, but every image is better"
    assert found == change_of(Pair(old, new))
    assert change_of(Pair(new, old)).better == 0.0
    assert change_of(SAME).better == 0.0, "equal is not better"


def test_images_without_cells_count_as_nothing() -> None:
    found = change_of(Pair((Counts(),), (Counts(),)))
    assert (found.old_f1, found.new_f1, found.better) == (0.0, 0.0, 0.0)


def test_unequal_images_are_an_error() -> None:
    with pytest.raises(ValueError, match="got 1 and 2 images"):
        Pair((BAD,), (BAD, GOOD))


def test_a_better_engine_is_promoted() -> None:
    verdict = decide(Pair((BAD,) * 4, (GOOD,) * 4), SAME, few=False)
    assert verdict.state == "promoted"
    assert verdict.reasons == ("The new engine is better on corrected images in 100% of the resamples.",)


def test_a_gain_that_depends_on_one_image_is_rejected() -> None:
    old, new = (GOOD,) * 4, (Counts(10, 0, 0), *(GOOD,) * 3)
    verdict = decide(Pair(old, new), SAME, few=False)
    assert verdict.corrected is not None
    assert 0 < verdict.corrected.better < CONFIDENCE
    assert verdict.state == "rejected"
    assert "of the resamples; expected 90%" in verdict.reasons[0]
    assert decide(Pair(old, new), SAME, few=True).state == "provisional"


@pytest.mark.parametrize("few_images", [True, False])
def test_no_gain_is_rejected(few_images: bool) -> None:
    assert decide(SAME, SAME, few=few_images).state == "rejected"


@pytest.mark.parametrize(("lost", "state"), [(1, "promoted"), (2, "rejected")])
def test_the_sample_set_may_lose_a_hundredth(lost: int, state: str) -> None:
    before, after = Counts(90, 10, 10), Counts(90 - lost, 10 + lost, 10 + lost)
    verdict = decide(Pair((BAD,) * 4, (GOOD,) * 4), Pair((before,), (after,)), few=False)
    assert verdict.state == state


def test_few_images_are_provisional_at_best() -> None:
    assert decide(Pair((BAD,) * 4, (GOOD,) * 4), SAME, few=True).state == "provisional"
    assert decide(None, SAME, few=True).state == "provisional"
    assert decide(None, Pair((GOOD,), (BAD,)), few=True).state == "rejected"


def names(count: int) -> tuple[str, ...]:
    return tuple(f"image{n}.png" for n in range(count))


@pytest.mark.parametrize("count", [ENOUGH, 11, 20, 53])
def test_a_fifth_is_kept_out(count: int) -> None:
    (fold,) = make_folds(names(count))
    assert len(fold.held_out) == -(-count // 5)
    assert sorted((*fold.train, *fold.held_out)) == sorted(names(count))
    assert make_folds(names(count)[::-1])[0].held_out == fold.held_out[::-1], "the order of the images is irrelevant"


@pytest.mark.parametrize("count", range(1, ENOUGH))
def test_single_images_are_left_out(count: int) -> None:
    folds = make_folds(names(count))
    assert few(names(count))
    assert len(folds) == (0 if count == 1 else min(count, 5))
    assert len({fold.held_out for fold in folds}) == len(folds)
    for fold in folds:
        assert len(fold.held_out) == 1
        assert len(fold.train) == count - 1
        assert not set(fold.train) & set(fold.held_out)


def test_images_that_the_present_engine_has_not_seen_are_kept_out_first() -> None:
    unseen = {"image3.png", "image7.png"}
    (fold,) = make_folds(names(20), seen=set(names(20)) - unseen)
    assert unseen < set(fold.held_out)
    assert len(fold.held_out) == 4


def shifted(labels: I32) -> I32:
    moved = np.zeros_like(labels)
    moved[:, 20:] = labels[:, :-20]
    return moved


def test_an_engine_that_learned_shifted_masks_is_rejected() -> None:
    """It is better on kept-out images of the poisoned project, which are shifted too, but not on the sample set."""
    with Segmenter(backend="cpu") as segmenter:
        pairs = [(segmenter(image).labels, truth) for image, truth in map(read_sample, package_samples())]

    def counts(found: I32, truth: I32) -> Counts:
        return count_matches(find_overlaps(truth, found), 0.6)

    poisoned = Pair(
        tuple(counts(found, shifted(truth)) for found, truth in pairs),
        tuple(counts(shifted(found), shifted(truth)) for found, truth in pairs),
    )
    samples = Pair(
        tuple(counts(found, truth) for found, truth in pairs),
        tuple(counts(shifted(found), truth) for found, truth in pairs),
    )
    verdict = decide(poisoned, samples, few=False)
    assert verdict.corrected is not None
    assert verdict.corrected.gain > 0.3
    assert verdict.samples.old_f1 > 0.5
    assert verdict.state == "rejected"
    assert len(verdict.reasons) == 1
    assert verdict.reasons[0].startswith("F1 on the sample set falls by")
