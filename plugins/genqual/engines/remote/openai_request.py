"""What a greedy request says, in full, and what a server refuses of it. Pure: no client, no torch.

A server fills in what a request leaves out: by its own defaults, or by the model's `generation_config.json`. A
repetition penalty from there would change the text of a model that computes everything right.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from genqual.errors import GenqualError

GREEDY: Final[Mapping[str, tuple[Any, ...]]] = {
    "temperature": (0.0,),
    "top_p": (1.0,),
    "top_k": (0, -1),
    "min_p": (0.0,),
    "presence_penalty": (0.0,),
    "frequency_penalty": (0.0,),
    "repetition_penalty": (1.0,),
    "repeat_penalty": (1.0,),
    "seed": (0,),
}
"""Field -> the values that leave the choice greedy, in the order in which they are tried."""

TELLING: Final[Mapping[str, tuple[Any, ...]]] = {
    "stream_options": ({"include_usage": True},),
    "return_token_ids": (True,),
    "ignore_eos": (True,),
}
"""What some servers must be told and others refuse: count what was used, give token ids, go on after an end of text."""

TEXT: Final[Mapping[str, tuple[Any, ...]]] = {"add_special_tokens": (False,)}
"""Of a prompt that is text: its tokens are to be those that we mean, and no other."""

CHAT: Final[Mapping[str, tuple[Any, ...]]] = {
    "chat_template": ("{% for message in messages %}{{ message['content'] }}{% endfor %}",),
    "add_generation_prompt": (False,),
}
"""Of a prompt that is a chat's message: nothing is to stand before or after it."""

PENALTIES: Final = ("repetition_penalty", "repeat_penalty")
"""One field by two names. A server that knows neither mostly takes both and heeds none."""

TELLTALE: Final = (0.01, 2.0)
"""Values of a penalty that change a greedy text: by the first what was written is written again, by the second not."""

SUSPECTS: Final = frozenset(GREEDY) - {"seed", "repeat_penalty"}
"""Refused, these are left to the server; `seed` chooses nothing at temperature 0, `repeat_penalty` is a second name."""


class RequestFields:
    """The optional fields of every request to one server, and which of them it refused."""

    def __init__(self, *wanted: Mapping[str, tuple[Any, ...]]) -> None:
        self._wanted = {name: values for part in wanted for name, values in part.items()}
        self._left = {name: list(values) for name, values in self._wanted.items()}
        self.sent: dict[str, Any] = {name: values[0] for name, values in self._wanted.items()}

    @property
    def refused(self) -> list[str]:
        """What is not sent, by name."""
        return [name for name in self._wanted if name not in self.sent]

    def settle(self, ask: Callable[[], Exception | None], said: Callable[[], str]) -> Exception | None:
        """Drop what the server refuses until `ask`, a request with these fields, goes through; then None.

        `said` is what the server answered to the last request. A refusal that names fields drops those, or tries
        their next values. One that names none drops all. What was dropped beside others is tried again alone, because
        a message may name what it would have taken.
        """
        error = ask()
        dropped: list[str] = []
        while error is not None and self.sent:
            found = named_in(said(), self.sent) or list(self.sent)
            for name in found:
                self._left[name].pop(0)
                del self.sent[name]
                if self._left[name] and len(found) == 1:
                    self.sent[name] = self._left[name][0]
            dropped += [name for name in found if name not in self.sent] if len(found) > 1 else []
            error = ask()
        if error is not None:
            return error
        for name in dropped:
            for value in self._wanted[name]:
                self.sent[name] = value
                with contextlib.suppress(GenqualError):  # without it there was an answer, so this is about the field
                    if ask() is None:
                        break
                del self.sent[name]
        return None


def named_in(message: str, fields: Iterable[str]) -> list[str]:
    """The fields that `message` names, as whole words."""
    return [name for name in fields if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", message)]


def suspicion(refused: Iterable[str], unheeded: Iterable[str] = ()) -> str:
    """What the reader of a failed verdict must know of what the server refused, or took and does not heed."""
    names, without_effect = [name for name in refused if name in SUSPECTS], list(unheeded)
    if names:
        said = f"The server refused {', '.join(names)} in the request"
    elif without_effect:
        values = " nor ".join(map(str, TELLTALE))
        said = f"The server took {', '.join(without_effect)} in the request, yet neither {values} changes its text"
    else:
        return ""
    return (
        f"{said}, so its own defaults or its generation_config.json decide there, and a penalty changes the text of a "
        "model that computes right: rule that out first (vLLM: --generation-config vllm; Ollama: PARAMETER "
        "repeat_penalty 1 in the Modelfile)."
    )
