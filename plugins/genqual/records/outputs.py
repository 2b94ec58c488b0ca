"""What timed runs gave, kept so that an auditor can count again. Pure: NumPy arrays in, plain numbers out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from genqual import digest
from genqual.records.base import Number, RecordPart, Sha256, Tally

if TYPE_CHECKING:  # NumPy is imported where it is used: who only reads records (`genqual compare`) starts without it
    import numpy as np
    from numpy.typing import NDArray

KEPT: Final = 2048  # tokens kept as they are; of larger batches the first rows, at least one

Row = tuple[Tally, ...]


class Ran(Protocol):
    """What `Outputs.of` reads, such as an `engines.base.Generated`."""

    @property
    def tokens(self) -> NDArray[np.int64]: ...
    @property
    def wall_s(self) -> float: ...
    @property
    def streamed(self) -> NDArray[np.int64] | None: ...


class Outputs(RecordPart):
    """The tokens of the timed runs.

    `rows` are the first run's rows as generated, as many as fit; `streamed` has, for each run, the first token of each
    of those rows as it was at the moment the time to first token was stamped (null: the engine does not say).
    `runs_sha256` is of each run's tokens, every row, as little-endian int64; `lengths` counts each row's tokens up to
    its end, and `end_token` is the id that ends a row (null: none was set, rows run to the length asked for).
    """

    rows: tuple[Row, ...]
    lengths: tuple[Tally, ...]
    runs_sha256: tuple[Sha256, ...]
    wall_s: tuple[Number, ...]
    streamed: tuple[Row, ...] | None = None
    end_token: Tally | None = None

    @classmethod
    def of(cls, runs: Sequence[Ran], *, end_token: int | None = None) -> Self | None:
        """From the timed runs of one workload, which all have the same shape; None where there is none."""
        if not runs:
            return None
        import numpy as np

        tokens = np.asarray(runs[0].tokens)
        kept = max(1, min(len(tokens), KEPT // max(1, tokens.shape[1])))
        streams = [run.streamed for run in runs if run.streamed is not None]
        return cls(
            rows=_rows(tokens[:kept]),
            lengths=tuple(_length(row, end_token) for row in tokens.tolist()),
            runs_sha256=tuple(tokens_sha256(run.tokens) for run in runs),
            wall_s=tuple(float(run.wall_s) for run in runs),
            streamed=_rows(np.stack(streams)[:, :kept]) if len(streams) == len(runs) else None,
            end_token=end_token,
        )


def tokens_sha256(tokens: Any) -> str:
    """SHA-256 of the tokens of one run, (rows, steps), as little-endian int64 in row order."""
    import numpy as np

    return digest.of_bytes(np.ascontiguousarray(tokens, dtype="<i8").tobytes())


def _rows(array: NDArray[Any]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(token) for token in row) for row in array)


def _length(row: list[int], end_token: int | None) -> int:
    """Tokens up to the first end token, which counts."""
    return row.index(end_token) + 1 if end_token is not None and end_token in row else len(row)
