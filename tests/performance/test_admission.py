"""What may be compared with what: each refusal has its reason, and only the question that was asked frees a field."""

from __future__ import annotations

from typing import Any

import pytest

from genqual.gate.admission import UNDER_TEST, disturbance, identity, identity_mismatches, noisy, ranges, refused

FACTS: dict[str, Any] = {"kernel": "6.18.44-fc-v595", "microcode": "0x1", "governor": None}
HERE = identity(FACTS, {"torch": "2.13.0"}, "3.11.7")


def test_a_patch_of_the_kernel_or_of_python_is_no_other_host() -> None:
    again = identity(FACTS | {"kernel": "6.18.45-other"}, {"torch": "2.13.0"}, "3.11.9")
    assert not identity_mismatches(HERE, again, "engine")
    assert identity(FACTS | {"kernel": "6.19.0"}, {"torch": "2.13.0"}, "3.11.7") != HERE


@pytest.mark.parametrize(
    ("field", "judged_under"),
    [
        ("driver", {"driver", "node"}),
        ("firmware", {"driver", "node"}),
        ("kernel", {"driver", "node"}),
        ("microcode", {"node"}),
        ("governor", {"node"}),
        ("torch", {"kernels"}),
        ("python", set()),
    ],
)
def test_only_the_question_asked_frees_a_field(field: str, judged_under: set[str]) -> None:
    other = HERE | {field: "another"}
    free = {question for question in UNDER_TEST if not identity_mismatches(HERE, other, question)}
    assert free == judged_under
    (said,) = identity_mismatches(HERE, other, "engine")
    assert said.startswith(f"{field} was {HERE[field]} and is another")
    assert ("--under-test" in said) == bool(judged_under)


def test_a_field_that_only_one_side_has_is_a_difference() -> None:
    assert identity_mismatches({**HERE, "more": 1}, HERE, "node") == ["more was 1 and is None"]


PROBES = [{"cpu_share": 0.97, "frozen_log_s": -5.0, "steal_share": 0.0}, {"cpu_share": 0.93, "frozen_log_s": -4.9}]


@pytest.mark.parametrize(
    ("probes", "under_test", "said"),
    [
        ({"cpu_share": 0.9, "frozen_log_s": -4.8}, "engine", ""),
        ({"cpu_share": 0.5}, "engine", "cpu_share 0.5 is not in 0.78 to 1.22"),
        ({"frozen_log_s": -3.0}, "engine", "frozen_log_s -3"),
        ({"frozen_log_s": -3.0}, "node", ""),
        ({"steal_share": 0.2}, "engine", "steal_share 0.2"),
        ({"suspended_s": 7.0}, "engine", "the host was suspended for 7 s"),
        ({"throttled": 2.0}, "engine", "the device throttled 2 times"),
        ({"others_share": 0.4}, "engine", ""),
        ({"others_share": 0.4}, "node", "noisy host: others_share 40% is above 10%"),
        ({"steal_share": 0.05}, "driver", "noisy host: steal_share 5% is above 2%"),
    ],
)
def test_a_disturbed_launch_is_refused_with_its_reason(probes: dict[str, float], under_test: str, said: str) -> None:
    found = refused(probes, ranges(PROBES), under_test=under_test)
    assert bool(found) == bool(said)
    assert said in "; ".join(found)


@pytest.mark.parametrize(
    ("frozen", "floor", "said"),
    [
        (-5.00, -5.05, []),
        (
            -5.00,
            -5.10,
            ["noisy host: half of the reference steps took 11% longer than the fastest, above 7%"],
        ),
        (None, -5.0, []),
        (-5.0, None, []),
    ],
)
def test_a_host_that_others_slow_now_and_then_is_not_quiet(
    frozen: float | None, floor: float | None, said: list[str]
) -> None:
    assert noisy(frozen, floor) == said


def test_the_ranges_hold_the_launches_they_were_made_of() -> None:
    for one in PROBES:
        assert not refused(one, ranges(PROBES), under_test="engine")


def test_what_others_used_is_what_grew_less_our_own() -> None:
    before = {"ticks_total": 1000, "ticks_busy": 300, "ticks_steal": 10, "ticks_per_s": 100, "throttle_core": 4}
    after = {"ticks_total": 3000, "ticks_busy": 1500, "ticks_steal": 60, "ticks_per_s": 100, "throttle_core": 5}
    found = disturbance(before, after, 10.0)
    assert found == {"steal_share": 50 / 2000, "others_share": (1200 - 1000) / 2000, "throttled": 1.0}


@pytest.mark.parametrize(
    ("reasons", "throttled"),
    [(["hw_thermal_slowdown"], 1.0), (["hw_slowdown"], 1.0), (["sw_power_cap"], 0.0), ([], 0.0), (None, 0.0)],
)
def test_a_card_that_slows_itself_for_heat_is_a_disturbance(reasons: Any, throttled: float) -> None:
    assert disturbance({}, {"cards": [{"throttle_reasons": reasons}, None]}, 1.0) == {"throttled": throttled}


def test_the_drivers_of_cards_are_a_part_of_identity() -> None:
    assert identity({"drivers": ["535.1"]}, {}, "3.11.7")["driver"] == ["535.1"]


@pytest.mark.parametrize("before", [{}, {"ticks_total": None}, {"ticks_total": 5, "ticks_per_s": None}])
def test_a_host_that_does_not_tell_has_no_probe(before: dict[str, Any]) -> None:
    assert disturbance(before, before, 1.0) == {}
