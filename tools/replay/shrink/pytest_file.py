"""A shrunk scenario as a pytest file: it fails as long as the symptom is there."""

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from tokenreel.actors.core.scenario import Scenario, ScenarioRequest
from tokenreel.tools.replay.shrink.symptom_divergence import Diverges
from tokenreel.tools.replay.shrink.symptom_predicate import Predicate
from tokenreel.tools.replay.shrink.symptoms import Leaks, Starves, Violates
from tokenreel.tools.replay.shrink.trial import Symptom

MAX_LINES = 39
MAX_COLUMNS = 100
MARK = "Shrunk by `engine-replay shrink`"

_CORE = "tokenreel.actors.core"
_PLAYING = "tokenreel.tools.replay.playing"
_MODULE_OF = {
    "CoreConfig": f"{_CORE}.config",
    "Fairness": f"{_PLAYING}.fairness",
    "check": f"{_CORE}.invariants",
    "check_quiet": f"{_CORE}.invariants",
    "check_step": f"{_CORE}.invariants",
    "Player": f"{_CORE}.scenario",
    "Scenario": f"{_CORE}.scenario",
    "ScenarioRequest": f"{_CORE}.scenario",
    "CheckingWorker": f"{_PLAYING}.scripted_worker",
    "ScriptedWorker": f"{_PLAYING}.scripted_worker",
    "sample_of": f"{_PLAYING}.scripted_worker",
    "WriteWatch": f"{_PLAYING}.write_watch",
    "Predicate": "tokenreel.tools.replay.shrink.symptom_predicate",
    "try_out": "tokenreel.tools.replay.shrink.trial",
}


def pytest_file(scenario: Scenario, symptom: Symptom, headline: str, origin: str) -> str:
    """`headline` says what was seen, `origin` where it comes from. At most MAX_LINES lines, unless
    so many different requests are left."""
    body = _body(symptom)
    code = [
        *_assignment(scenario),
        "",
        "",
        f"def {name_of_test(symptom)}() -> None:",
        *(f"    {line}" if line else "" for line in body),
    ]
    used = set(re.findall(r"\w+", "\n".join(code)))
    return "\n".join([*_docstring(headline, origin), "", *_imports(used), "", *code, ""])


def name_of_test(symptom: Symptom) -> str:
    """Of the function; with `.py` also a good name for the file."""
    name = symptom.function if isinstance(symptom, Predicate) else symptom.name
    words = re.sub(r"\W+", "_", name.replace("'", "")).strip("_").lower()
    return f"test_{words[:48].strip('_')}"


def _docstring(headline: str, origin: str) -> list[str]:
    return [f'"""{_one_line(headline)}', "", f"{MARK} {_one_line(origin)}", '"""']


def _one_line(text: str) -> str:
    """Anything as one line of a docstring, whatever is in it."""
    line = " ".join(text.split()).replace("\\", "/").replace('"""', "'''").rstrip('"')
    return line if len(line) <= MAX_COLUMNS - 4 else f"{line[: MAX_COLUMNS - 8]} ..."


def _imports(used: set[str]) -> list[str]:
    by_module: dict[str, list[str]] = {}
    for name, module in _MODULE_OF.items():
        if name in used:
            by_module.setdefault(module, []).append(name)
    return [
        f"from {module} import {', '.join(names)}" for module, names in sorted(by_module.items())
    ]


def _body(symptom: Symptom) -> list[str]:
    match symptom:
        case Violates(checks_kv=checks_kv):
            kind = "CheckingWorker(SCENARIO.config, sample_of(SCENARIO))"
            worker = kind if checks_kv else "ScriptedWorker(SCENARIO)"
            return [
                "writes = WriteWatch()",
                "",
                "def watch(engine, event, effects):  # type: ignore[no-untyped-def]",
                "    check(engine)",
                "    check_step(engine, effects)",
                "    writes.note(engine, effects)",
                "",
                f"player = Player(SCENARIO, {worker}, watch)",
                "player.play()",
                "check_quiet(player.engine)",
            ]
        case Leaks():
            return [
                "player = Player(SCENARIO, ScriptedWorker(SCENARIO))",
                "player.play()",
                "check_quiet(player.engine)",
            ]
        case Starves(max_steps=max_steps):
            return [
                f"fairness = Fairness(SCENARIO, max_steps={max_steps})",
                "Player(SCENARIO, ScriptedWorker(SCENARIO), fairness).play()",
            ]
        case Predicate(place=place):
            return [
                "symptom = Predicate(",
                f"    {place!r}",
                ")",
                "assert try_out(SCENARIO, symptom) is None",
            ]
        case Diverges(seen=seen):
            assert seen is not None
            return [
                "decided = []",
                "Player(",
                "    SCENARIO,",
                "    ScriptedWorker(SCENARIO),",
                "    lambda engine, event, effects: decided.append(effects),",
                ").play()",
                f"effects = decided[{seen.place}]",
                f"assert {seen.expression} == {seen.expected!r}",
            ]
        case _:
            return ["Player(SCENARIO, ScriptedWorker(SCENARIO)).play()"]


def _assignment(scenario: Scenario) -> list[str]:
    requests = _requests(scenario.requests)
    more = [
        f"    {name}={getattr(scenario, name)!r},"
        for name in ("max_turns", "turns_per_step")
        if getattr(scenario, name) != _default(Scenario, name)
    ]
    config = _call("config=CoreConfig", scenario.config, indent=4)
    return [
        "SCENARIO = Scenario(",
        *config,
        "    requests=(",
        *requests,
        "    ),",
        *more,
        ")",
    ]


def _requests(requests: tuple[ScenarioRequest, ...]) -> list[str]:
    """Runs of equal ones are written once."""
    lines: list[str] = []
    place = 0
    while place < len(requests):
        count = 1
        while requests[place : place + count + 1] == requests[place : place + 1] * (count + 1):
            count += 1
        if count == 1:
            lines += _call("ScenarioRequest", requests[place], indent=8)
        else:
            (line,) = _call("ScenarioRequest", requests[place], indent=8, max_columns=10_000)
            lines += [f"        *[{line.strip().removesuffix(',')}] * {count},"]
        place += count
    return lines


def _call(
    name: str, value: msgspec.Struct, indent: int, max_columns: int = MAX_COLUMNS
) -> list[str]:
    """`name(field=value, ...),` with what is not the default, on as many lines as it needs."""
    arguments = [
        f"{field}={getattr(value, field)!r}"
        for field in value.__struct_fields__
        if getattr(value, field) != _default(type(value), field)
    ]
    margin = " " * indent
    line = f"{margin}{name}({', '.join(arguments)}),"
    if len(line) <= max_columns:
        return [line]
    return [f"{margin}{name}(", *_filled(arguments, margin + "    "), f"{margin}),"]


def _filled(words: Iterable[str], margin: str) -> list[str]:
    lines = [margin]
    for word in words:
        if len(lines[-1]) + len(word) + 2 > MAX_COLUMNS:
            lines.append(margin)
        lines[-1] += f"{word}, "
    return [line.rstrip() for line in lines]


def _default(kind: type[msgspec.Struct], field: str) -> Any:
    fields = {info.name: info.default for info in msgspec.structs.fields(kind)}
    return fields[field]
