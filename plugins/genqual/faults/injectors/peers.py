"""Faults of engines that are no torch module here: what is done to their requests and inputs. In ranks only."""

from __future__ import annotations

from typing import Any

from genqual.faults.injectors.places import Undo


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


def late_position(engine: Any, rank: int) -> Undo:
    """OpenVINO's compiled graph is fed, at each step of one token, the position after its own."""
    model = engine.model
    prepare = model.prepare_inputs

    def shifted(*args: Any, **kwargs: Any) -> Any:
        inputs = prepare(*args, **kwargs)
        if inputs["input_ids"].shape[1] == 1:
            inputs["position_ids"] = inputs["position_ids"] + 1
        return inputs

    model.prepare_inputs = shifted

    def undo() -> None:
        del model.prepare_inputs

    return undo


def _around(client: Any, before: Any, after: Any) -> Undo:
    complete = client.complete

    def faulty(prompts: list[Any], new_tokens: int, **more: Any) -> tuple[float, list[Any]]:
        start, streams = complete(before(prompts), new_tokens, **more)
        return start, after(prompts, streams)

    client.complete = faulty

    def undo() -> None:
        del client.complete

    return undo
