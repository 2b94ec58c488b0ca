"""Routers against loops that follow the definitions word by word, and their margins by trying what changes a choice."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from genqual.conformance.oracle.router import Router
from genqual.errors import BadInput

TOKENS, EXPERTS = 40, 8
Array = NDArray[np.float64]

ROUTERS = {
    "softmax": Router(2),
    "softmax normalised": Router(2, normalise=True),
    "softmax of one": Router(1, scale=3.0),
    "softmax groups, the best counts": Router(3, scale=16.0, groups=4, groups_kept=2),
    "sigmoid": Router(2, score="sigmoid"),
    "sigmoid groups, the best two count": Router(
        2, score="sigmoid", normalise=True, scale=2.5, groups=2, groups_kept=1, group_counts=2
    ),
    "softmax groups, the best two count": Router(2, groups=4, groups_kept=3, group_counts=2),
}

CASES = [(name, False) for name in ROUTERS] + [(name, True) for name in ROUTERS if name.startswith("sigmoid")]


def logits(seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((TOKENS, EXPERTS)) * 2


def correction(seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal(EXPERTS) * 0.2


def chosen(router: Router, row: list[float], bias: list[float]) -> tuple[set[int], dict[int, float]]:
    """The groups that are kept, and expert: weight, of one token; `bias` counts in the choice alone."""
    if router.score == "softmax":
        total = sum(math.exp(z) for z in row)
        scores = [math.exp(z) / total for z in row]
    else:
        scores = [1 / (1 + math.exp(-z)) for z in row]
    ranks = [s + b for s, b in zip(scores, bias, strict=True)]
    size = len(row) // router.groups
    groups = [range(g * size, (g + 1) * size) for g in range(router.groups)]
    worth = [sum(sorted((ranks[e] for e in group), reverse=True)[: router.group_counts]) for group in groups]
    kept = sorted(range(router.groups), key=lambda g: -worth[g])[: router.groups_kept]
    allowed = [e for g in kept for e in groups[g]]
    best = sorted(allowed, key=lambda e: -ranks[e])[: router.top_k]
    total = sum(scores[e] for e in best) if router.normalise else 1.0
    return set(kept), {e: scores[e] / total * router.scale for e in best}


@pytest.mark.parametrize(("name", "corrected"), CASES)
def test_a_router_chooses_and_weighs_as_defined(name: str, corrected: bool) -> None:
    router, given, bias = ROUTERS[name], logits(), correction() if corrected else None
    routing = router.route(given, bias)
    assert routing.experts.shape == routing.weights.shape == (TOKENS, router.top_k)
    for token in range(TOKENS):
        _, want = chosen(router, given[token].tolist(), [0.0] * EXPERTS if bias is None else bias.tolist())
        got = dict(zip(routing.experts[token].tolist(), routing.weights[token].tolist(), strict=True))
        assert got == pytest.approx(want, rel=1e-13)


@pytest.mark.parametrize(("name", "corrected"), CASES)
def test_no_smaller_error_of_the_logits_changes_the_choice_and_a_larger_one_does(name: str, corrected: bool) -> None:
    """The margin, by trying every sign of the error of every logit: 2^8 corners, where the first to change lies."""
    router, given, bias = ROUTERS[name], near_ties(ROUTERS[name], corrected), correction() if corrected else None
    plain = [0.0] * EXPERTS if bias is None else bias.tolist()
    margins = router.route(given, bias).margins
    near = np.flatnonzero(margins < 0.02)  # to first order in the error
    assert len(near) >= 8

    def choice(row: Array) -> tuple[set[int], set[int]]:
        groups, experts = chosen(router, row.tolist(), plain)
        return groups, set(experts)

    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=EXPERTS)))
    for token in near[:8]:
        want = choice(given[token])
        for share, changes in ((0.97, False), (1.03, True)):
            moved = given[token] + signs * margins[token] * share
            differs = [choice(row) != want for row in moved]
            assert any(differs) == changes, (token, share)


def near_ties(router: Router, corrected: bool) -> Array:
    """Logits (tokens, experts) drawn until enough choices are near to another."""
    rows = np.random.default_rng(7).standard_normal((3000, EXPERTS))
    margins = router.route(rows, correction() if corrected else None).margins
    return rows[np.argsort(margins)[:TOKENS]]


def test_where_every_expert_is_chosen_there_is_no_other() -> None:
    assert np.isinf(Router(EXPERTS).route(logits()).margins).all()


def test_a_softmax_of_ones_and_zeros_is_told_apart_by_its_logits() -> None:
    given = logits()
    wide = Router(2).route(given * 1000)
    np.testing.assert_array_equal(wide.experts, Router(2).route(given).experts)
    np.testing.assert_allclose(wide.margins, Router(2).route(given).margins * 1000, rtol=1e-12)


@pytest.mark.parametrize(
    "router", [Router(9), Router(2, groups=3), Router(5, groups=2), Router(1, groups=4, group_counts=3)]
)
def test_what_cannot_be_chosen_is_refused(router: Router) -> None:
    with pytest.raises(BadInput, match="8 experts in"):
        router.route(logits())


def test_a_corrected_softmax_is_refused() -> None:
    with pytest.raises(BadInput, match="correction bias on softmax"):
        Router(2).route(logits(), correction())


def test_more_groups_kept_than_there_are_is_refused() -> None:
    with pytest.raises(BadInput, match="3 of 2 groups"):
        Router(1, groups=2, groups_kept=3)
