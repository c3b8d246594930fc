"""Chat templates render as in transformers; what they refuse is one line."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from tokenreel.actors.text.chat_template import ChatError, ChatTemplate, load_chat_template
from tokenreel.actors.text.model_files import ModelFilesError

DEMO_MODEL = Path(__file__).parents[3] / "tools" / "demo_model"
PLENTY = 100_000

CHATML = """{% for message in messages %}
    {%- if loop.first and message['role'] != 'system' %}
        {{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

LLAMA_3 = """{{- bos_token }}
{%- if strftime_now is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- else %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + date_string + "\\n\\n" }}
{{- system_message }}{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'
            + message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- set call = message.tool_calls[0].function %}
        {{- '{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}{{- "}" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

QWEN_3 = """{%- set ns = namespace(multi_step=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step and message.role == "user" and message.content is string %}
        {%- set ns.multi_step = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}
    {%- else %}{%- set content = '' %}{%- endif %}
    {%- if message.role == "assistant" %}
        {%- generation %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {{- '\\n<tool_call>\\n' + (tool_call | tojson(indent=2)) + '\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
        {%- endgeneration %}
    {%- elif message.role == "hidden" %}{%- continue %}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n' }}{%- endif %}
{%- endif %}"""

MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.last and system_message is defined %}
            {{- '[INST] ' + system_message + '\\n\\n' + message['content'] + '[/INST]' }}
        {%- else %}
            {{- '[INST] ' + message['content'] + '[/INST]' }}
        {%- endif %}
    {%- else %}
        {{- ' ' + message['content']|trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""

TEMPLATES = {"chatml": CHATML, "llama-3": LLAMA_3, "qwen-3": QWEN_3, "mistral": MISTRAL}
SPECIAL: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>"}
HELLO = {"role": "user", "content": "Hello <b>&'\" wörld 日本\n"}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one turn": [HELLO],
    "system first": [{"role": "system", "content": " Be brief. "}, HELLO],
    "three turns": [
        HELLO,
        {"role": "assistant", "content": "<think>well</think>\n\nHi!", "name": "bot"},
        {"role": "user", "content": "Bye"},
    ],
    "null fields": [{**HELLO, "tool_calls": None, "name": None}],
    "tool call": [
        HELLO,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "add", "arguments": {"a": "<é>", "b": [1.5]}}}],
        },
    ],
}


def of_transformers(
    source: str, messages: list[dict[str, Any]], add_generation_prompt: bool
) -> str:
    # apply_chat_template drops nulls before it renders.
    plain = [{k: v for k, v in message.items() if v is not None} for message in messages]
    rendered: Any = render_jinja_template(
        [plain],
        chat_template=source,
        add_generation_prompt=add_generation_prompt,
        **SPECIAL,
    )
    text: str = rendered[0][0]
    return text


@pytest.mark.parametrize("add_generation_prompt", [False, True])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_renders_as_in_transformers(
    name: str, conversation: str, add_generation_prompt: bool
) -> None:
    source, messages = TEMPLATES[name], CONVERSATIONS[conversation]
    template = ChatTemplate(source, special_tokens=SPECIAL)
    text = template.render(messages, add_generation_prompt=add_generation_prompt, max_chars=PLENTY)
    assert text == of_transformers(source, messages, add_generation_prompt)
    assert "Hello" in text


@pytest.mark.skipif(not DEMO_MODEL.is_dir(), reason="the demo model is not built")
def test_the_demo_models_template_renders_as_in_transformers() -> None:
    template = load_chat_template(DEMO_MODEL, special_tokens=SPECIAL)
    assert template is not None
    path = DEMO_MODEL / "chat_template.jinja"
    config = json.loads((DEMO_MODEL / "tokenizer_config.json").read_text())
    source = path.read_text() if path.exists() else config["chat_template"]
    for messages in (CONVERSATIONS["one turn"], CONVERSATIONS["three turns"]):
        text = template.render(messages, add_generation_prompt=True, max_chars=PLENTY)
        assert text == of_transformers(source, messages, True)


def test_the_date_is_the_one_that_was_passed_in() -> None:
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", now=lambda: datetime(2024, 7, 26))
    assert render(template) == "26 Jul 2024"


def render(template: ChatTemplate, messages: Any = (HELLO,), max_chars: int = PLENTY) -> str:
    return template.render(messages, add_generation_prompt=False, max_chars=max_chars)


def test_a_templates_own_refusal_reaches_the_client() -> None:
    template = ChatTemplate(MISTRAL, special_tokens=SPECIAL)
    with pytest.raises(ChatError, match="refuses these messages: roles must alternate"):
        render(template, [HELLO, HELLO])


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "at least one message"),
        ([{"content": "x"}], "message 0 has no role"),
        ([HELLO, {"role": "", "content": "x"}], "message 1 has no role"),
        ([{"role": 3, "content": "x"}], "message 0 has no role"),
        ([{"role": "user", "content": 3}], "the content of message 0 is no text"),
        ([{"role": "user", "content": [{"type": "text"}]}], "the content of message 0 is no text"),
        ([{"role": "user"}], "the chat template refuses these messages: 'dict object' has no"),
    ],
)
def test_messages_that_make_no_prompt_are_named(messages: Any, complaint: str) -> None:
    with pytest.raises(ChatError, match=complaint):
        render(ChatTemplate(CHATML), messages)


def test_an_error_inside_a_template_is_the_messages_fault() -> None:
    template = ChatTemplate("{{ messages[0].content + 1 }}")
    with pytest.raises(ChatError, match="cannot render these messages: TypeError"):
        render(template)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ namespace(__class__=1) }}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{{ dict.__subclasses__() }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(source: str) -> None:
    with pytest.raises(ChatError):
        render(ChatTemplate(source))


def test_an_endless_output_is_cut_short() -> None:
    source = "{% for i in range(90000) %}{% for j in range(90000) %}x{% endfor %}{% endfor %}"
    with pytest.raises(ChatError, match="more than 1000 characters"):
        render(ChatTemplate(source), max_chars=1000)


def test_a_broken_template_is_named_with_its_line() -> None:
    with pytest.raises(ModelFilesError, match="an error in line 2: .*--chat-template"):
        ChatTemplate("{{ messages }}\n{% if %}")


MakeModelDir = Callable[..., Path]


def test_a_model_without_a_template_has_none(tmp_path: Path) -> None:
    assert load_chat_template(tmp_path) is None


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("A", "A"),
        ([{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}], "D"),
        ([{"name": "only", "template": "O"}], "O"),
    ],
)
def test_templates_in_tokenizer_config_may_be_named(
    make_model_dir: MakeModelDir, entry: object, expected: str
) -> None:
    model_dir = make_model_dir(tokenizer_config={"chat_template": entry})
    template = load_chat_template(model_dir)
    assert template is not None
    assert render(template) == expected


def test_several_named_templates_without_a_default_are_none(make_model_dir: MakeModelDir) -> None:
    entry = [{"name": name, "template": name} for name in ("a", "b")]
    assert load_chat_template(make_model_dir(tokenizer_config={"chat_template": entry})) is None


def test_a_template_file_counts_more_than_the_config(make_model_dir: MakeModelDir) -> None:
    model_dir = make_model_dir()
    (model_dir / "chat_template.jinja").write_text("file")
    template = load_chat_template(model_dir)
    assert template is not None
    assert render(template) == "file"


def test_the_users_template_counts_most(make_model_dir: MakeModelDir, tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text("mine")
    for override, expected in ((str(path), "mine"), ("{{ 'inline' }}", "inline")):
        template = load_chat_template(make_model_dir(), override)
        assert template is not None
        assert render(template) == expected


def test_a_template_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match=r"--chat-template nowhere\.jinja: no such file"):
        load_chat_template(tmp_path, "nowhere.jinja")
