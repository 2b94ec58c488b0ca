"""Real generation, judged by the suite's own tests: a pytest process whose JUnit report is read back."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from typing import Final

from genqual.health.checks.base import Node
from genqual.health.children import ends_with_us
from genqual.health.finding import Finding, Outcome, Threshold
from genqual.health.group import findings_on_each_card
from genqual.health.outcomes import bad

_TESTS: Final = " or ".join(
    (
        "test_logits_match_the_oracle",
        "test_free_run_follows_the_oracle",
        "test_a_repeated_request_gives_the_same_bits",
    )
)


class Generation:
    """llama-tiny in fp32 on the device: logits and greedy text against the oracle, and bits from run to run."""

    name = "generation"
    summary = "logits and greedy tokens of llama-tiny against the float64 oracle"
    required = True
    seconds = 22.0
    stretches = False
    privileges = "none"

    def __init__(self, more: tuple[str, ...] = ()) -> None:
        self._more = more  # words for pytest, for tests

    def run(self, node: Node, seconds: float) -> Iterable[Finding]:
        """One finding, or one a card: how many judgements passed, or what failed first."""
        node.say(f"{self.name}: the suite's own tests on {node.device}")
        if not node.cards:
            yield from self._run(node, seconds)
            return
        yield from findings_on_each_card(self, node, lambda one: self._run(one, seconds))

    def _run(self, node: Node, seconds: float) -> Iterator[Finding]:
        node.work.mkdir(parents=True, exist_ok=True)
        report = node.work / "generation.xml"
        words = ["-m", f"{node.device} and conformance", "--engine", "transformers", "--model", "llama-tiny"]
        words += ["--dtype", "fp32", "-k", _TESTS, "--no-upload", f"--state-dir={node.work / 'state'}"]
        again = shlex.join(["pytest", *words[:8]])
        if node.cards:
            shown = node.cards[0].placement.env[0][node.cards[0].variable]
            again = f"{node.cards[0].variable}={shlex.quote(shown)} {again}"
        command = [sys.executable, "-m", "pytest", "--pyargs", "genqual.suites", "-q", "-p", "no:cacheprovider"]
        try:
            done = subprocess.run(
                [*command, *words, f"--junitxml={report}", *self._more],
                capture_output=True, text=True, check=False, timeout=seconds + 120.0, env=_plain_environment(node),
                preexec_fn=ends_with_us(),
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            yield bad(f"{self.name}.lost", node.entity, f"no end within {seconds + 120.0:.0f} s", next_command=again)
            return
        # Our own process has just written it.
        root = ET.parse(report).getroot() if report.is_file() else None  # noqa: S314
        yield self._finding(node.entity, root, done, again)

    def _finding(
        self, entity: str, root: ET.Element | None, done: subprocess.CompletedProcess[str], again: str
    ) -> Finding:
        if root is None:
            last = (done.stdout + done.stderr).strip().splitlines()[-1:] or ["it said nothing"]
            return self._unknown(entity, f"pytest ended with {done.returncode} and no report: {last[0]}", again)
        cases = root.findall(".//testcase")
        failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
        skipped = [case for case in cases if case.find("skipped") is not None]
        passed = len(cases) - len(failed) - len(skipped)
        if failed:
            first = failed[0].find("failure")
            first = failed[0].find("error") if first is None else first
            message = "" if first is None else str(first.get("message", ""))[:400]
            outcome = "lost" if "GroupLost" in message else "wrong"
            said = f"{len(failed)} of {len(cases)} judgements failed; {failed[0].get('name')}: {message}"
            return bad(f"{self.name}.{outcome}", entity, said, required=True, next_command=again)
        if not passed:
            return self._unknown(entity, f"no test gave a verdict ({len(skipped)} skipped)", again)
        return Finding(
            check=self.name,
            entity=entity,
            outcome=Outcome.OK,
            required=True,
            signal=float(passed),
            threshold=Threshold(value=1.0, unit="judgements passed", source="all that apply, at least one"),
            evidence=f"{passed} judgements passed",
        )

    def _unknown(self, entity: str, why: str, again: str) -> Finding:
        return Finding(
            check=self.name,
            entity=entity,
            outcome=Outcome.UNKNOWN,
            required=True,
            evidence=why,
            next_command=again,
        )


def _plain_environment(node: Node) -> dict[str, str]:
    """Ours without what steers another pytest: options, plugins and xdist's worker of whoever runs this check."""
    whole = node.cards[0].environment if node.cards else dict(os.environ)
    return {name: value for name, value in whole.items() if not name.startswith("PYTEST_")}
