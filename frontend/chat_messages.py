"""The messages of a chat as clients send them, and as chat templates take them."""

from typing import Any, Literal

import msgspec

from tokenreel.frontend.errors import bad_request

PART_SEPARATOR = "\n"
"""What stands between the text parts of one message (vLLM's choice)."""


class ContentPart(msgspec.Struct):
    type: str
    text: str | None = None


class FunctionCall(msgspec.Struct):
    name: str
    arguments: str = "{}"


class ToolCall(msgspec.Struct):
    function: FunctionCall
    id: str = ""
    type: Literal["function"] = "function"


class ChatMessage(msgspec.Struct):
    """`tool_calls` and `tool_call_id` are history, which a template may show."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


def to_template_messages(messages: list[ChatMessage]) -> tuple[dict[str, Any], ...]:
    """Raises `ApiError` for content that is no text."""
    return tuple(_to_template(message, f"messages[{i}]") for i, message in enumerate(messages))


def _to_template(message: ChatMessage, where: str) -> dict[str, Any]:
    rendered: dict[str, Any] = {"role": message.role, "content": _content(message, where)}
    if message.name is not None:
        rendered["name"] = message.name
    if message.tool_call_id is not None:
        rendered["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        rendered["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    return rendered


def _content(message: ChatMessage, where: str) -> str:
    content = message.content
    if isinstance(content, str):
        return content
    if content is None:
        if message.tool_calls:
            return ""
        raise bad_request(f"{where}.content: is required", f"{where}.content")
    texts = []
    for i, part in enumerate(content):
        at = f"{where}.content[{i}]"
        if part.type != "text":
            message_text = f"{at}.type: only text is supported"
            raise bad_request(message_text, f"{at}.type", "unsupported")
        if part.text is None:
            raise bad_request(f"{at}.text: is required", f"{at}.text")
        texts.append(part.text)
    return PART_SEPARATOR.join(texts)


def _tool_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": _arguments(call.function.arguments)}
    return {"id": call.id, "type": call.type, "function": function}


def _arguments(text: str) -> Any:
    """Templates expect the object that the JSON text stands for; what is none stays a text."""
    try:
        arguments = msgspec.json.decode(text, type=dict[str, Any])
        msgspec.msgpack.encode(arguments)  # Some numbers of JSON fit no message.
    except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError):
        return text
    return arguments
