"""Conversations: which messages make a prompt, and the very text that transformers renders of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genqual.errors import BadInput
from genqual.models.chat import Prompt, messages_in, renderer
from genqual.models.spec import ModelSpec

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA2 = (
    "{{ bos_token }}{% for message in messages %}\n    {%- if message.role == 'system' %}\n{% continue %}{% endif %}\n"
    "    {% if message.role not in ('user', 'assistant') %}{{ raise_exception('who is ' ~ message.role) }}{% endif %}\n"
    "[INST] {{ message.content | trim }} [/INST]{{ {'a': '<é>'} | tojson }}{% endfor %}"
)
DATED = (
    "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}26 Jul 2024{% endif %}{{ messages[0].content }}"
)
TALK = [{"role": "system", "content": "be brief"}, {"role": "user", "content": " héllo\n"}]
PEER = """
import json, sys
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
talk, templates = json.loads(sys.argv[1])
for template in templates:
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>", eos_token="</s>")
    made.chat_template = template
    print(json.dumps(made.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)))
"""


def model(folder: Path, template: Any = None, **config: Any) -> ModelSpec:
    config |= {"bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    config |= {"chat_template": template} if template is not None else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return ModelSpec("m", "directory", str(folder), "llama")


def test_a_template_renders_as_transformers_renders_it(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", PEER, json.dumps([TALK, [CHATML, LLAMA2]])],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    wanted = [json.loads(line) for line in said.stdout.splitlines()]
    for number, template in enumerate((CHATML, LLAMA2)):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert renderer(model(folder, template))(TALK) == wanted[number]


def test_a_template_is_found_wherever_it_is_kept(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": CHATML}]
    rendered = renderer(model(tmp_path, named))(TALK)
    assert rendered.endswith("<|im_start|>assistant\n")
    model(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(CHATML, encoding="utf-8")
    assert renderer(model(tmp_path))(TALK) == rendered


def test_a_template_with_a_date_gives_the_same_prompt_every_day(tmp_path: Path) -> None:
    assert renderer(model(tmp_path, DATED))(TALK) == "26 Jul 2024be brief"


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (None, r"no chat template .* FILE:messages\.0\.content"),
        ("{% if", "is not jinja2"),
        ("{{ raise_exception('roles must alternate') }}", "refuses the conversation .roles must alternate"),
        ("{{ messages.append(1) }}", "refuses the conversation"),  # the sandbox
        ("{{ ''.__class__.__mro__ }}", "refuses the conversation"),
    ],
)
def test_a_template_that_cannot_render_says_why(tmp_path: Path, template: str | None, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        renderer(model(tmp_path, template))(TALK)


@pytest.mark.parametrize("source", ["embedded", "gguf", "hub"])
def test_a_model_without_files_has_no_template(source: Any) -> None:
    with pytest.raises(BadInput, match=f"no chat template here .source {source}."):
        renderer(ModelSpec("m", source, "m", ""))(TALK)


USER = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ([USER], [USER]),
        ([USER, {"role": "assistant", "content": "b"}], [USER]),
        ([{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], [USER]),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}]}], [USER]),
        (
            [USER, {"role": "assistant", "content": "b"}, USER, {"from": "gpt", "value": "c"}],
            [USER, {"role": "assistant", "content": "b"}, USER],
        ),
        ("text", None),
        ([], None),
        (["a"], None),
        ([{"a": "b"}], None),
    ],
)
def test_a_conversation_ends_where_an_answer_is_asked_for(value: object, wanted: object) -> None:
    assert messages_in(value, "x, line 1") == wanted


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([{"role": "system", "content": "a"}], "line 1: the conversation asks nothing"),
        ([{"role": "assistant", "content": "a"}], "asks nothing"),
        ([USER, {"role": "user", "content": None}], "line 1, message 2: content is NoneType"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "message 1: a part that is not text"),
    ],
)
def test_a_conversation_that_cannot_be_asked_is_named_by_line_and_message(value: object, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        messages_in(value, "x, line 1")


def test_a_prompt_is_its_text() -> None:
    made = Prompt("a", "x, line 1", rendered=True)
    assert (made, made.where, made.rendered) == ("a", "x, line 1", True)
    assert json.dumps(made) == '"a"'
