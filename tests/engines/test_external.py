"""Somebody's program as an engine: the worked example of the docs, and programs that break the protocol."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from genqual.conformance.oracle.registry import oracle_for
from genqual.engines.base import LoadRequest, TokenBatch
from genqual.engines.remote.external import External
from genqual.errors import BadInput, EngineFailed, Unsupported
from genqual.models import weights
from genqual.models.registry import resolve

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "numpy_engine.py"
ROWS = [[3, 141, 59, 26], [535, 89, 79]]
MODEL = resolve("llama-tiny")

Make = Callable[..., External]


@pytest.fixture
def make() -> Iterator[Make]:
    """Start an engine of a command; its program ends with the test."""
    made: list[External] = []

    def start(*command: str, dtype: str = "fp32", model: str = "llama-tiny") -> External:
        engine = External()
        made.append(engine)
        options = {"command": shlex.join(command)}
        engine.load(LoadRequest(resolve(model), dtype, "cpu", 0, 1, 0, 1, 1, options))  # type: ignore[arg-type]
        return engine

    yield start
    for engine in made:
        if hasattr(engine, "process"):
            engine.process.kill()
            engine.process.communicate()
        if hasattr(engine, "_errors"):
            engine._errors.close()


def script(tmp_path: Path, body: str, **more: int) -> tuple[str, str]:
    """A program that answers `load`, then does `body` with each request."""
    file = tmp_path / "program.py"
    loaded = json.dumps({"protocol": 1, "name": "mine", **more})
    file.write_text(
        "import json, sys, os\n"
        "def say(**what): print(json.dumps(what), flush=True)\n"
        f"sys.stdin.readline(); print({loaded!r}, flush=True)\n"
        f"for line in sys.stdin:\n    request = json.loads(line); rows = len(request['prompts'])\n    {body}\n"
    )
    return sys.executable, str(file)


def test_the_example_follows_the_oracle(make: Make) -> None:
    engine = make(sys.executable, str(EXAMPLE))
    got = engine.generate(TokenBatch.of(ROWS), 6)
    oracle = oracle_for(weights.config(MODEL), weights.read(MODEL))
    assert got.tokens.tolist() == [oracle.greedy(row, 6).tolist() for row in ROWS]
    assert (np.diff(got.step_s) > 0).all()
    assert 0 < got.step_s[-1] <= got.wall_s
    assert got.cpu_s >= 0
    assert engine.memory().peak > 1 << 20
    told = engine.inspect()
    assert told["times"] == "the program's own clock"
    assert told["says"]["name"] == "numpy-llama"  # type: ignore[index,call-overload]


def test_the_example_gives_its_best_log_probabilities_when_it_is_asked(make: Make) -> None:
    engine = make(sys.executable, str(EXAMPLE))
    assert engine.generate(TokenBatch.of(ROWS), 6).top_ids is None, "a timed run does not pay for them"
    for asked, given in ((5, 5), (2, 2), (9, 5)):
        got = engine.generate_top(TokenBatch.of(ROWS), 6, asked)
        assert got.top_ids is not None
        assert got.top_logprobs is not None
        assert got.top_ids.shape == got.top_logprobs.shape == (6, 2, given)
        assert (got.tokens == got.top_ids[..., 0].T).all()
    found = engine.generate_top(TokenBatch.of(ROWS), 6, 5)
    assert found.top_ids is not None
    assert found.top_logprobs is not None
    oracle = oracle_for(weights.config(MODEL), weights.read(MODEL))
    for row, prompt in enumerate(ROWS):
        logits = oracle.logits([*prompt, *found.tokens[row, :-1].tolist()])[len(prompt) - 1 :]
        exact = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        assert (np.argsort(-exact, axis=-1)[:, :5] == found.top_ids[:, row]).all()
        assert np.abs(np.sort(exact, axis=-1)[:, :-6:-1] - found.top_logprobs[:, row]).max() < 1e-4


def test_a_program_is_asked_for_what_it_said_that_it_gives(make: Make, tmp_path: Path) -> None:
    tells = "[say(tokens=[request.get('top', 0)] * rows) for _ in range(request['new_tokens'])]"
    engine = make(*script(tmp_path, tells))
    assert engine.generate_top(TokenBatch.of(ROWS), 2, 5).tokens.tolist() == [[0, 0], [0, 0]]
    assert engine.generate_top(TokenBatch.of(ROWS), 2, 5).top_ids is None
    engine = make(*script(tmp_path, tells, top=7))
    assert engine.generate(TokenBatch.of(ROWS), 2).tokens.tolist() == [[0, 0], [0, 0]]
    assert engine.generate_top(TokenBatch.of(ROWS), 2, 5).tokens.tolist() == [[5, 5], [5, 5]]


def test_who_sends_them_unasked_is_heard(make: Make, tmp_path: Path) -> None:
    engine = make(*script(tmp_path, "[say(tokens=[7, 8], top=[[[7, -1], [8, -2.5]]] * 2) for _ in range(3)]"))
    got = engine.generate(TokenBatch.of(ROWS), 3)
    assert got.top_ids is not None
    assert got.top_logprobs is not None
    assert got.top_ids.dtype == np.int64
    assert got.top_logprobs.dtype == np.float64
    assert got.top_ids.tolist() == [[[7, 8]] * 2] * 3
    assert got.top_logprobs.tolist() == [[[-1.0, -2.5]] * 2] * 3


@pytest.mark.parametrize(
    ("top", "words"),
    [
        ("7", "gave top 7 at step 0; wanted is a list a row, 2"),
        ("[[[7, -1], [8, -2]]]", "wanted is a list a row, 2"),
        ("[[[7, -1], [8, -2]], 5]", "gave top 5 at step 0 of row 1; wanted are pairs"),
        ("[[[7, -1]], [[8, -2]]]", "at step 0 of row 0; wanted are pairs .*two at least"),
        ("[[[7, -1], [8, -2]], [[7, -1], [8, -2], [9, -3]]]", "row 1; wanted are pairs .*as many everywhere"),
        ("[[[7, -1], [8, -2]][:2 + i], [[7, -1], [8, -2], [9, -3]][:2 + i]]", "at step 1 of row 1; wanted are pairs"),
        ("[[[7, -1], [7, -2]], [[7, -1], [8, -2]]]", "row 0; wanted .*each id once"),
        ("[[[7, -1], [1024, -2]], [[7, -1], [8, -2]]]", "row 0; wanted .*below 1024"),
        ("[[[7, -1], [-1, -2]], [[7, -1], [8, -2]]]", "row 0; wanted"),
        ("[[[7, -1], [True, -2]], [[7, -1], [8, -2]]]", "row 0; wanted"),
        ("[[[7, -1], [8, float('nan')]], [[7, -1], [8, -2]]]", "row 0; wanted .*each number finite"),
        ("[[[7, -1], [8, -float('inf')]], [[7, -1], [8, -2]]]", "row 0; wanted"),
        ("[[[7, -1], [8, '-2']], [[7, -1], [8, -2]]]", "row 0; wanted"),
        ("[[[7, -1], [8]], [[7, -1], [8, -2]]]", "row 0; wanted"),
        ("None if i else [[[7, -1], [8, -2]]] * 2", "gave top None at step 1; wanted is a list a row"),
    ],
)
def test_log_probabilities_that_are_none_are_told(top: str, words: str, make: Make, tmp_path: Path) -> None:
    engine = make(*script(tmp_path, f"[say(tokens=[7, 8], top={top}) for i in range(3)]"))
    with pytest.raises(EngineFailed, match=words):
        engine.generate(TokenBatch.of(ROWS), 3)


def test_the_broken_example_does_not(make: Make) -> None:
    engine = make(sys.executable, str(EXAMPLE), "--fault", "stale-cache")
    oracle = oracle_for(weights.config(MODEL), weights.read(MODEL))
    got = engine.generate(TokenBatch.of(ROWS), 16)
    assert got.tokens.tolist() != [oracle.greedy(row, 16).tolist() for row in ROWS]


def test_what_a_program_cannot_run_is_unsupported(make: Make) -> None:
    with pytest.raises(Unsupported, match="not bloom in fp32"):
        make(sys.executable, str(EXAMPLE), model="bloom-tiny")
    with pytest.raises(Unsupported, match="not llama in bf16"):
        make(sys.executable, str(EXAMPLE), dtype="bf16")


def test_without_times_a_line_counts_when_it_arrives(make: Make, tmp_path: Path) -> None:
    engine = make(*script(tmp_path, "[say(tokens=[7] * rows) for _ in range(request['new_tokens'])]"))
    got = engine.generate(TokenBatch.of(ROWS), 4)
    assert got.tokens.tolist() == [[7] * 4] * 2
    assert (np.diff(got.step_s) > 0).all()
    assert engine.inspect()["times"] == "arrival of each line"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("print('hello')", "no JSON object: hello.*print to standard error"),
        ("print('[1]')", "no JSON object"),
        ("say(error='out of paper')", "failed, the program says: out of paper"),
        ("say(tokens=[7])", "step 0 answered .*one a row, 2"),
        ("say(words=[7, 7])", "step 0 answered"),
        ("[say(tokens=[7, 1024]) for _ in range(4)]", "gave 1024 at step 0 of row 1"),
        ("[say(tokens=[7, 'x']) for _ in range(4)]", "gave 'x' at step 0 of row 1"),
        ("[say(tokens=[7, 7], s=1e-9) for _ in range(4)]", "step 1 says it was done after 1e-09 s"),
        ("[say(tokens=[7, 7], s=60.0 + i) for i in range(4)]", "step 0 says it was done after 60.0 s"),
        ("print('last words', file=sys.stderr); sys.exit(3)", "ended with code 3 during `generate`; .*last words"),
        ("say(tokens=[7, 7]); os.kill(os.getpid(), 9)", "ended with code -9"),
    ],
)
def test_a_program_that_breaks_the_protocol_is_told_in_a_sentence(
    body: str, words: str, make: Make, tmp_path: Path
) -> None:
    engine = make(*script(tmp_path, body))
    with pytest.raises(EngineFailed, match=words):
        engine.generate(TokenBatch.of(ROWS), 4)


def test_a_command_that_cannot_start_is_bad_input(make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no-such-program.*No such file"):
        make("no-such-program")
    with monkeypatch.context() as patch:  # the kernel says "Permission denied", as of another user's directory on PATH
        patch.setenv("PATH", f"{os.environ['PATH']}:{tmp_path}")
        (tmp_path / "no-such-program").touch(mode=0o600)
        with pytest.raises(BadInput, match=r"no-such-program.*No such file"):
            make("no-such-program")
    with pytest.raises(BadInput, match="--engine-command"):
        make()
    with pytest.raises(EngineFailed, match="wanted is an object with protocol 1"):
        make("cat")
    with pytest.raises(EngineFailed, match="ended with code 0 during `load`"):
        make("true")
