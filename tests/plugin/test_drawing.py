"""The search for the smallest input that fails: small, repeatable, and ended by what is no verdict."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genqual.conformance.judgement import Judgement
from genqual.errors import NotApplicable
from genqual.models.registry import resolve
from genqual.session.fixture_types import unless_tied
from genqual.session.property_search import Search, beginnings, cuts, row, rows, search, text_of, tokens


def verdict(good: bool, ratio: float = 0.1) -> Judgement:
    return Judgement("pass" if good else "fail", "fp32", "logits", "said", ratio=ratio, judged=2, total=2)


def test_the_smallest_failure_is_reported() -> None:
    found = search("p", lambda n: verdict(n < 37), {"n": st.integers(0, 1000)}, 15, Search())
    assert found.status == "fail"
    assert "n = 37." in found.explanation


def test_without_shrinking_the_first_is_reported() -> None:
    seen: list[int] = []

    def check(n: int) -> Judgement:
        seen.append(n)
        return verdict(n == 0)

    assert search("p", check, {"n": st.integers(0, 10**6)}, 15, Search(shrink=False)).status == "fail"
    assert len(seen) <= 5


def test_an_engine_that_remembers_fails_in_words() -> None:
    """Hypothesis tries a failing example again, and calls it flaky where that passes; to us it is a failure."""
    seen: list[int] = []

    def check(n: int) -> Judgement:
        seen.append(n)
        return verdict(len(seen) != 3)

    for shrink in (True, False):
        seen.clear()
        found = search("p", check, {"n": st.integers(0, 1000)}, 15, Search(shrink=shrink))
        assert found.status == "fail"
        assert f"Example: n = {seen[2]}; it passed when it was tried again" in found.explanation


def test_a_verdict_draws_the_same_in_every_run_and_no_more_than_asked() -> None:
    def drawn() -> list[list[int]]:
        seen: list[list[int]] = []

        def check(text: list[int]) -> Judgement:
            seen.append(text)
            return verdict(True, ratio=len(text) / 10)

        found = search("p", check, {"text": row(tokens(1000), most=9)}, 6, Search())
        assert found.passed
        assert found.judged == 2 * len(seen)
        assert found.ratio == max(len(text) for text in seen) / 10
        return seen

    first = drawn()
    assert first == drawn()
    assert 1 < len(first) <= 6


def test_every_comparison_of_two_runs_says_where_routers_may_part() -> None:
    """One that names neither rows of the passage nor a drawn text calls a right mixture of experts wrong."""
    suites = Path(__file__).parents[2] / "suites" / "conformance"
    asked = {
        f"{file.name}:{call.lineno}": {keyword.arg for keyword in call.keywords}
        for file in suites.glob("*.py")
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "same"
    }
    assert len(asked) > 15
    assert [place for place, words in asked.items() if not words & {"rows", "drawn"}] == []


def test_exploring_remembers_what_failed(tmp_path: Path) -> None:
    how = Search(explore=True, database=tmp_path)
    seen: list[int] = []

    def check(n: int) -> Judgement:
        seen.append(n)
        return verdict(n < 500_000)

    assert search("p", check, {"n": st.integers(0, 10**6)}, 5, how).status == "fail"
    seen.clear()
    assert search("p", check, {"n": st.integers(0, 10**6)}, 5, how).status == "fail"
    assert seen[0] == 500_000, "what failed last is tried first"


def test_what_is_no_verdict_ends_the_search_at_once() -> None:
    seen: list[int] = []

    def check(n: int) -> Judgement:
        seen.append(n)
        raise NotApplicable("no tokenizer")

    with pytest.raises(NotApplicable, match="no tokenizer"):
        search("p", check, {"n": st.integers()}, 15, Search())
    assert len(seen) == 1
    unknown = Judgement("no_reference", "fp32", "logits", "nothing known")
    assert search("p", lambda n: unknown, {"n": st.integers()}, 15, Search()).status == "no_reference"


TIED = Judgement("no_reference", "declared", "logits", "near ties everywhere", total=4)


def test_an_example_that_near_ties_reach_is_passed_over() -> None:
    seen: list[int] = []

    def check(n: int) -> Judgement:
        seen.append(n)
        return TIED if len(seen) < 3 else verdict(False)

    def passes(n: int) -> Judgement:
        seen.append(n)
        return TIED if len(seen) < 3 else verdict(True)

    assert search("p", check, {"n": st.integers(0, 1000)}, 15, Search()).status == "fail", "what comes after is judged"
    seen.clear()
    found = search("p", passes, {"n": st.integers(0, 1000)}, 15, Search())
    assert found.passed
    assert len(seen) > 3
    assert found.total == found.judged, "of those alone that were judged"


def test_a_text_that_near_ties_reach_is_no_evidence() -> None:
    def status(judgement: Judgement) -> str:
        try:
            return unless_tied(judgement).status
        except NotApplicable as reason:  # raised further, the plugin would call this very test not applicable
            return str(reason)

    tied = search("p", lambda n: TIED, {"n": st.integers(0, 1000)}, 5, Search())
    assert status(tied).endswith("near ties everywhere")
    assert status(Judgement("no_reference", "fp32", "logits", "nothing known")) == "no_reference"
    assert status(verdict(False)) == "fail"


@settings(max_examples=50, deadline=None)
@given(total=st.integers(1, 40), data=st.data())
def test_cuts_add_up(total: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(1, total))
    widths = data.draw(cuts(total, first=first))
    assert widths[0] >= first
    assert sum(widths) == total
    assert min(widths) >= 1


@settings(max_examples=50, deadline=None)
@given(prompts=rows(tokens(9)))
def test_rows_are_prompts(prompts: list[list[int]]) -> None:
    assert 1 <= len(prompts) <= 3
    assert all(1 <= len(one) <= 9 and min(one) >= 0 and max(one) < 9 for one in prompts)


@settings(max_examples=200, deadline=None)
@given(one=tokens(9, special=frozenset({0, 1, 4})))
def test_marks_are_never_drawn(one: int) -> None:
    assert one in {2, 3, 5, 6, 7, 8}


@settings(max_examples=100, deadline=None)
@given(one=beginnings([[5, 6, 7, 8], [9, 10, 11, 12]], least=2, most=3))
def test_a_beginning_is_of_one_text(one: list[int]) -> None:
    assert one in ([5, 6], [5, 6, 7], [9, 10], [9, 10, 11])


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_trained_model_is_given_text_and_a_built_one_any_ids(data: st.DataObject) -> None:
    built = resolve("llama-tiny")
    texts = [[5, 6, 7, 8]]
    assert data.draw(text_of(replace(built, source="directory"), st.just(1), texts)(least=2, most=3))[:2] == [5, 6]
    assert set(data.draw(text_of(built, st.just(1), texts)(least=2, most=3))) == {1}


def test_a_beginning_shrinks_to_the_shortest_of_the_first_text() -> None:
    def check(text: list[int]) -> Judgement:
        return Judgement("fail", "fp32", "logits", "wrong")

    found = search("p", check, {"text": beginnings([[5, 6, 7], [8, 9, 10]], least=2)}, 9, Search())
    assert "text = [5, 6]" in found.explanation


def test_a_text_shrinks_to_the_lowest_id_that_is_no_mark() -> None:
    def check(text: list[int]) -> Judgement:
        return Judgement("fail", "fp32", "logits", "wrong")

    found = search("p", check, {"text": row(tokens(1000, special={0, 1, 2}), least=2)}, 9, Search())
    assert "text = [3, 3]" in found.explanation
