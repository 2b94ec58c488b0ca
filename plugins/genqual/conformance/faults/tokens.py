"""Faults of engines that show tokens only: what a server may do to its requests. No torch; in ranks only."""

from __future__ import annotations

from typing import Any

from genqual.conformance.faults.places import Undo


def rows_swapped(engine: Any, rank: int) -> Undo:
    """The answers to the first two requests of a batch are handed to each other's askers."""

    def swap(prompts: list[Any], streams: list[Any]) -> list[Any]:
        return [streams[1], streams[0], *streams[2:]] if len(streams) > 1 else streams

    return _around(engine.client, lambda prompts: prompts, swap)


def prompt_cut(engine: Any, rank: int) -> Undo:
    """Each prompt loses its first token on the way, and the count that the server reports does not show it."""

    def cut(prompts: list[Any]) -> list[Any]:
        return [prompt[1:] for prompt in prompts]

    def hide(prompts: list[Any], streams: list[Any]) -> list[Any]:
        for stream in streams:
            stream.prompt_tokens = None
        return streams

    return _around(engine.client, cut, hide)


def _around(client: Any, before: Any, after: Any) -> Undo:
    complete = client.complete

    def faulty(prompts: list[Any], new_tokens: int) -> tuple[float, list[Any]]:
        start, streams = complete(before(prompts), new_tokens)
        return start, after(prompts, streams)

    client.complete = faulty

    def undo() -> None:
        del client.complete

    return undo
