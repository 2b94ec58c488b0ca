"""Conversations as prompts: the model's own chat template, rendered without torch. Pure but for jinja2, when one is.

transformers renders in the same way: a sandboxed jinja2, blocks trimmed, the special tokens by their names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Self

from genqual import digest
from genqual.errors import BadInput
from genqual.models.spec import ModelSpec

Message = dict[str, Any]
"""`role` (system, user, assistant) and `content`, text."""

_ROLES: Final = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant"}
"""ShareGPT's names of who speaks, where they are not OpenAI's."""

_TOKENS: Final = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


_COLUMN: Final = (
    "name a column of text as FILE:column, such as FILE:messages.0.content, or FILE:conversations.0.value of ShareGPT's"
)


class Prompt(str):
    """A prompt's text, `where` it stands, and whether it was `rendered` by a template, special tokens included."""

    where: str
    rendered: bool
    __slots__ = ("rendered", "where")

    def __new__(cls, text: str, where: str = "", *, rendered: bool = False) -> Self:
        made = super().__new__(cls, text)
        made.where, made.rendered = where, rendered
        return made


Render = Callable[[Sequence[Message]], str]
"""From messages to the text of a prompt that the model answers. Raises BadInput."""


def messages_in(value: object, where: str) -> list[Message] | None:
    """The messages of `value` up to the last one that asks for an answer; None where it is no conversation.

    OpenAI's `{role, content}` and ShareGPT's `{from, value}`. Raises BadInput on a conversation that asks nothing, or
    whose content is not text.
    """
    if not isinstance(value, list) or not value or not all(isinstance(one, dict) for one in value):
        return None
    if not all("role" in one or "from" in one for one in value):
        return None
    found = [_message(one, f"{where}, message {number}") for number, one in enumerate(value, 1)]
    while found and found[-1]["role"] == "assistant":  # what it was answered is not part of the question
        found.pop()
    if not found or found[-1]["role"] == "system":
        raise BadInput(f"prompts {where}: the conversation asks nothing; give it a message of the user, or remove it")
    return found


def _message(one: Mapping[str, Any], where: str) -> Message:
    role = str(one.get("role", one.get("from")))
    content = one.get("content", one.get("value"))
    if isinstance(content, list):  # OpenAI's parts
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            raise BadInput(f"prompts {where}: a part that is not text; genqual generates from text only: remove it")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise BadInput(f"prompts {where}: content is {type(content).__name__}, not text; mend or remove it")
    return {"role": _ROLES.get(role, role), "content": content}


def renderer(spec: ModelSpec) -> Render:
    """The chat template of a model. Asked for nothing until it renders; then raises BadInput where there is none."""
    return lambda messages: _render(spec, messages)


def _render(spec: ModelSpec, messages: Sequence[Message]) -> str:
    if spec.source != "directory":
        raise BadInput(
            f"model {spec.name}: no chat template here (source {spec.source}), which messages need; {_COLUMN}, or use "
            "a checkpoint directory"
        )
    directory = Path(spec.location)
    files = [directory / name for name in ("chat_template.jinja", "tokenizer_config.json", "chat_template.json")]
    changed = tuple(digest.stamp(file) if file.is_file() else None for file in files)
    template, tokens = _template(spec.location, changed)
    from jinja2 import TemplateError

    try:
        return str(template.render(messages=list(messages), add_generation_prompt=True, **tokens))
    except (TemplateError, TypeError, ValueError) as error:
        raise BadInput(
            f"model {spec.name}: its chat template refuses the conversation ({error}); mend it, or name a column of "
            "text as FILE:column"
        ) from error


@lru_cache(maxsize=4)
def _template(location: str, _stamps: tuple[tuple[int, ...] | None, ...]) -> tuple[Any, dict[str, str]]:
    """The compiled template of a directory, and its special tokens by name."""
    directory = Path(location)
    config = _json(directory / "tokenizer_config.json")
    text = _text(directory, config)
    if text is None:
        raise BadInput(
            f"model {directory}: no chat template (chat_template.jinja, or chat_template in tokenizer_config.json), "
            f"which messages need; {_COLUMN}"
        )
    if find_spec("jinja2") is None:
        raise BadInput(f"model {directory}: a chat template is rendered by the package jinja2: pip install jinja2")
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment.globals["raise_exception"] = raise_exception
    # `strftime_now` is left out: a template that has the date would give another prompt each day, and has a fixed date
    # for where the function is not there.
    try:
        template = environment.from_string(text)
    except TemplateError as error:
        raise BadInput(f"model {directory}: its chat template is not jinja2 ({error}); download it again") from error
    named = {name: config.get(name) for name in _TOKENS}
    tokens = {name: one["content"] if isinstance(one, dict) else one for name, one in named.items() if one}
    return template, {name: str(one) for name, one in tokens.items()}


def _text(directory: Path, config: Mapping[str, Any]) -> str | None:
    """The template's text, from wherever transformers of any age keeps it."""
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = config.get("chat_template") or _json(directory / "chat_template.json").get("chat_template")
    if isinstance(found, list):  # several, by name
        found = next((one.get("template") for one in found if one.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{file}: not JSON ({error}); download it again") from error
    return found if isinstance(found, dict) else {}


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
    """As transformers has it: jinja2's own escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)
