"""A conversation to a prompt text, by the model's own Jinja template.

The environment is the one that transformers gives templates (`render_jinja_template`), so that they
render alike. A template is code from the model's author, so it runs in Jinja's sandbox; what it may
put out is bounded.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from tokenreel.actors.text.model_files import ModelFilesError, read_json, read_text

DEFAULT_NAME = "default"

Messages = Sequence[Mapping[str, Any]]


class ChatError(ValueError):
    """These messages make no prompt: one line for the client."""


class ChatTemplate:
    """A compiled template. `now` is what it sees as the present, if it asks for the date."""

    def __init__(
        self,
        source: str,
        *,
        special_tokens: Mapping[str, str] | None = None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """Raises `ModelFilesError` if `source` is not a template."""
        environment = _environment()
        environment.globals["strftime_now"] = lambda format: now().strftime(format)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ModelFilesError(
                f"the chat template has an error in line {error.lineno}: {error.message}; "
                "give another one with --chat-template"
            ) from error
        self._special_tokens = dict(special_tokens or {})

    def render(self, messages: Messages, *, add_generation_prompt: bool, max_chars: int) -> str:
        """Raises `ChatError` if the messages are malformed, the template refuses them, or the
        prompt would be longer than `max_chars`."""
        pieces = self._template.generate(
            messages=_plain_messages(messages),
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **self._special_tokens,
        )
        try:
            return "".join(_bounded(pieces, max_chars))
        except (ChatError, MemoryError):
            raise
        except jinja2.TemplateError as error:
            raise ChatError(f"the chat template refuses these messages: {error.message}") from error
        except Exception as error:  # Templates meet types that their authors never thought of.
            raise ChatError(
                f"the chat template cannot render these messages: {type(error).__name__}: {error}"
            ) from error


def load_chat_template(
    model_dir: Path,
    override: str | None = None,
    *,
    special_tokens: Mapping[str, str] | None = None,
    now: Callable[[], datetime] = datetime.now,
) -> ChatTemplate | None:
    """`override` is a file's path or a template itself. None if the model has no template. Raises
    `ModelFilesError`."""
    source = _overriding(override) if override else _of_model(model_dir)
    if source is None:
        return None
    return ChatTemplate(source, special_tokens=special_tokens, now=now)


def _overriding(override: str) -> str:
    if any(mark in override for mark in ("{{", "{%", "\n")):
        return override
    path = Path(override)
    if not path.is_file():
        raise ModelFilesError(f"--chat-template {override}: no such file, and no Jinja template")
    return read_text(path)


def _of_model(model_dir: Path) -> str | None:
    """A file of its own counts more than the entry in tokenizer_config.json."""
    path = model_dir / "chat_template.jinja"
    if path.exists():
        return read_text(path)
    entry = read_json(model_dir / "tokenizer_config.json").get("chat_template")
    if isinstance(entry, list):
        templates = {each["name"]: each["template"] for each in entry if _is_named_template(each)}
        only = next(iter(templates.values())) if len(templates) == 1 else None
        return templates.get(DEFAULT_NAME, only)
    return entry if isinstance(entry, str) else None


def _is_named_template(entry: object) -> bool:
    return isinstance(entry, dict) and all(
        isinstance(entry.get(key), str) for key in ("name", "template")
    )


def _plain_messages(messages: Messages) -> list[dict[str, Any]]:
    if not messages:
        raise ChatError("there must be at least one message")
    return [_plain_message(index, message) for index, message in enumerate(messages)]


def _plain_message(index: int, message: Mapping[str, Any]) -> dict[str, Any]:
    """Null counts as absent, as in transformers: templates test for a key, not for its value."""
    plain = {key: value for key, value in message.items() if value is not None}
    if not isinstance(plain.get("role"), str) or not plain["role"]:
        raise ChatError(f"message {index} has no role")
    if not isinstance(plain.get("content", ""), str):
        raise ChatError(f"the content of message {index} is no text")
    return plain


def _bounded(pieces: Iterable[str], max_chars: int) -> Iterator[str]:
    num_chars = 0
    for piece in pieces:
        num_chars += len(piece)
        if num_chars > max_chars:
            raise ChatError(
                f"the conversation makes a prompt of more than {max_chars} characters, which is "
                "more than this model can read"
            )
        yield piece


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["dict"] = _DictFunction()
    environment.globals["namespace"] = _GuardedNamespace
    return environment


class _GenerationTag(Extension):
    """{% generation %} marks what the model itself wrote, for training; here it is only text."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _DictFunction:
    """`dict(...)` in a template, without the class behind it."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


class _GuardedNamespace(Namespace):
    """Jinja's namespace, but for names that reach into Python itself."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, args = args[0], args[1:]  # So that an attribute may be called `self`.
        attributes = dict(*args, **kwargs)
        for name in attributes:
            _check_attribute(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        Namespace.__setitem__(self, name, value)


def _check_attribute(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
