"""The page itself, in a real browser: what a person does with it, and what he sees."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from capturing import CONFIG
from headless_browser import Browser, headless_browser

from tokenreel.actors.core.config import LOGIC_VERSION
from tokenreel.actors.core.engine import Engine
from tokenreel.actors.runtime.code_identity import describe_run
from tokenreel.actors.runtime.recorder import Recorder
from tokenreel.frontend.host_check import HostCheck
from tokenreel.frontend.http_server import HttpServer
from tokenreel.messages.codec import CoreEvent, encode, tag_of
from tokenreel.messages.ids import BlockHash, RequestKey, SeqId, StepId
from tokenreel.messages.journal import EFFECT, INPUT
from tokenreel.messages.requests import AdmitRequest
from tokenreel.messages.sampling import SamplingParams, StoppingParams, TextParams
from tokenreel.messages.steps import SequenceFailure, StepBegan, StepCompleted
from tokenreel.tools.replay.core_code import CoreCode, installed_core
from tokenreel.tools.replay.view.app import Api, make_app
from tokenreel.tools.replay.view.recorded import Recorded

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
States = dict[int, dict[str, Any]]


@contextmanager
def serving(recorded: Recorded) -> Iterator[str]:
    """The page's address."""
    loop = asyncio.new_event_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    started = threading.Event()
    server = HttpServer(make_app(Api(lambda: recorded), HostCheck()), 64, started.set)
    thread = threading.Thread(
        target=lambda: loop.run_until_complete(server.serve(sockets=[listener]))
    )
    thread.start()
    try:
        assert started.wait(30)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(30)
        loop.close()
        listener.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with headless_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(browser: Browser, recorded: Recorded) -> Iterator[str]:
    with serving(recorded) as address:
        yield address


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Browser]:
    """The page on the captured run, at its first step. Afterwards: it has complained of nothing,
    and asked nobody else."""
    browser.open(address)
    at_step(browser, 1)
    browser.complaints(), browser.strangers()
    yield browser
    assert browser.complaints() == []
    assert browser.strangers() == []


def step_of(page: Browser) -> int:
    return int(page.find("#lanes-box").get_attribute("aria-valuenow"))


def at_step(page: Browser, step: int) -> None:
    """Waits until it is the one, and its state is shown."""
    is_shown = (
        "return document.getElementById('panels').getAttribute('aria-busy') === 'false' &&"
        "document.getElementById('lanes-box').getAttribute('aria-valuenow') === arguments[0]"
    )
    page.wait(lambda: page.script(is_shown, str(step)))


def assert_shows(page: Browser, states: States, step: int) -> None:
    at_step(page, step)
    state = states[step]
    names = [
        s["request"] + (f" #{s['choice']}" if s["choice"] else "")
        for s in state["running"]["first"]
    ]
    assert page.texts("#batch .name") == names
    waiting = [
        s["request"] + (f" #{s['choice']}" if s["choice"] else "")
        for s in state["waiting"]["first"]
    ]
    assert page.texts("#waiting .name") == waiting
    budget = state["budget"]
    assert f"prefill {budget['prefill']}" in page.text("#budget")
    assert f"decode {budget['decode']}" in page.text("#budget")
    for name, count in state["pool"]["counts"].items():
        assert f"{name} {count}" in page.text("#blocks-legend")
    assert page.text("#reasons").count("▼ Preempted") == len(state["preempted"])


def test_the_page_shows_the_run_and_its_first_step(
    page: Browser, journal: Path, states: States
) -> None:
    assert page.text("#run-name") == journal.name
    assert "40 requests" in page.text("#run-facts")
    assert_shows(page, states, 1)
    for canvas in ("#overview", "#lanes", "#blocks"):
        colours = page.script(
            "const c = document.querySelector(arguments[0]);"
            "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            "return new Set(new Uint32Array(d.buffer)).size",
            canvas,
        )
        assert colours > 3, canvas


def test_nothing_is_asked_of_anybody_else(browser: Browser, address: str) -> None:
    browser.strangers()
    browser.open(address)
    assert browser.strangers() == []
    assert browser.complaints() == []


def test_the_mouse_scrubs_through_the_steps(page: Browser, states: States) -> None:
    last = max(states)
    page.drag("#lanes-box", 0.5)
    middle = step_of(page)
    assert abs(middle - last / 2) < last * 0.05
    assert_shows(page, states, middle)
    page.drag("#lanes-box", 0.2, 0.4, 0.75)
    assert abs(step_of(page) - last * 0.75) < last * 0.05
    assert_shows(page, states, step_of(page))


def test_the_keys_move_through_the_steps(page: Browser, states: States) -> None:
    from selenium.webdriver.common.keys import Keys

    last = max(states)
    page.press(Keys.ARROW_RIGHT * 3)
    assert_shows(page, states, 4)
    page.press(Keys.ARROW_LEFT)
    assert_shows(page, states, 3)
    page.press(Keys.END)
    assert_shows(page, states, last)
    page.press(Keys.ARROW_RIGHT)
    assert step_of(page) == last
    page.press(Keys.HOME)
    at_step(page, 1)
    page.press(Keys.PAGE_DOWN)
    paged = step_of(page)
    assert paged > 5
    page.press(Keys.PAGE_UP)
    at_step(page, 1)
    page.find("#lanes-box").send_keys(Keys.SHIFT, Keys.ARROW_RIGHT)
    assert_shows(page, states, 11)


def test_buttons_and_the_number_field_move_as_well(page: Browser, states: States) -> None:
    from selenium.webdriver.common.keys import Keys

    page.find("#next").click()
    assert_shows(page, states, 2)
    page.find("#last").click()
    at_step(page, max(states))
    page.find("#previous").click()
    at_step(page, max(states) - 1)
    page.find("#first").click()
    at_step(page, 1)
    field = page.find("#step")
    field.clear()
    field.send_keys("77", Keys.ENTER)
    assert_shows(page, states, 77)
    field.clear()
    field.send_keys("999999", Keys.ENTER)
    at_step(page, max(states))


def test_space_plays_and_pauses(page: Browser, states: States) -> None:
    page.script("document.getElementById('speed').value = '250'")
    page.press(" ")
    assert page.find("#play").get_attribute("aria-pressed") == "true"
    page.wait(lambda: step_of(page) > 20)
    page.press(" ")
    assert page.find("#play").get_attribute("aria-pressed") == "false"
    stood = step_of(page)
    after = page.driver.execute_async_script(
        "const done = arguments[0]; let left = 5;"
        "const tick = () => left-- ? requestAnimationFrame(tick) :"
        " done(document.getElementById('lanes-box').getAttribute('aria-valuenow'));"
        "tick()"
    )
    assert int(after) == stood
    assert_shows(page, states, stood)


def test_playing_ends_at_the_last_step(page: Browser, states: States) -> None:
    page.press("\ue010")
    page.find("#previous").click()
    page.find("#play").click()
    page.wait(lambda: page.find("#play").get_attribute("aria-pressed") == "false")
    at_step(page, max(states))


def canvas_of(page: Browser, selector: str) -> str:
    source = "return document.querySelector(arguments[0]).toDataURL()"
    return str(page.driver.execute_script(source, selector))


def drawn_anew(page: Browser, selector: str, before: str) -> Callable[[], bool]:
    return lambda: canvas_of(page, selector) != before


def test_a_search_highlights_a_request_everywhere(page: Browser, states: States) -> None:
    step = next(n for n, state in states.items() if len(state["running"]["first"]) > 2)
    request = states[step]["running"]["first"][1]["request"]
    page.find("#step").clear()
    page.find("#step").send_keys(str(step), "\ue007")
    at_step(page, step)
    lanes, blocks = canvas_of(page, "#lanes"), canvas_of(page, "#blocks")
    page.press("/")
    page.wait(lambda: page.script("return document.activeElement.id") == "search")
    page.find("#search").send_keys(request)
    page.wait(lambda: request in page.texts("#found [role=option] .id"))
    page.press("\ue007")
    page.wait(lambda: page.text("#life h2") == request if page.find_all("#life h2") else False)
    at_step(page, step)
    assert "null" not in page.text("#life") and "undefined" not in page.text("#life")
    marked = page.texts("tr.is-highlighted .name")
    assert marked and all(name.split(" ")[0] == request for name in marked)
    page.wait(drawn_anew(page, "#lanes", lanes))
    page.wait(drawn_anew(page, "#blocks", blocks))
    page.press("\ue00c")
    page.wait(lambda: not page.find("#life").is_displayed())
    assert page.texts("tr.is-highlighted") == []


def test_a_name_in_the_batch_highlights_too(page: Browser, states: States) -> None:
    page.find("#batch .name").click()
    name = page.wait(lambda: page.texts("#life h2"))[0]
    assert name == states[1]["running"]["first"][0]["request"]
    page.find("#batch .name").click()
    page.wait(lambda: not page.find("#life").is_displayed())


@pytest.mark.parametrize(("kind", "key"), [("preemption", "p"), ("miss", "m")])
def test_jumps_go_to_the_next_and_the_previous(
    page: Browser, address: str, states: States, kind: str, key: str
) -> None:
    question = f"{address}api/next?kind={kind}&step={{}}&direction={{}}"
    with httpx.Client(trust_env=False) as client:
        first = client.get(question.format(1, "next")).json()["step"]
        second = client.get(question.format(first, "next")).json()["step"]
    page.find(f"#next-{kind}").click()
    assert_shows(page, states, first)
    page.press(key)
    assert_shows(page, states, second)
    page.find(f"#previous-{kind}").click()
    assert_shows(page, states, first)


def test_a_jump_to_nowhere_says_so(page: Browser, states: States) -> None:
    page.press("\ue010")
    at_step(page, max(states))
    page.find("#next-preemption").click()
    page.wait(lambda: "no preemption" in page.text("#status"))


def asked_range(page: Browser) -> tuple[int, int]:
    """The steps that the page has asked for last, to show them in its lanes."""
    asked = page.wait(lambda: [name for name in resources(page) if "/api/steps?" in name])
    fields = parse_qs(urlsplit(asked[-1]).query)
    return int(fields["from"][0]), int(fields["until"][0])


def resources(page: Browser) -> list[str]:
    names = page.script("return performance.getEntriesByType('resource').map((e) => e.name)")
    return [str(name) for name in names]


def test_only_the_visible_range_is_asked_for_when_keys_and_wheel_zoom(page: Browser) -> None:
    whole = asked_range(page)
    page.press("+")
    page.wait(lambda: asked_range(page) != whole)
    closer = asked_range(page)
    assert whole[0] <= closer[0] < closer[1] < whole[1]
    page.script(
        "document.getElementById('lanes-box').dispatchEvent(new WheelEvent('wheel',"
        "{deltaY: 900, bubbles: true, cancelable: true, clientX: 400}))"
    )
    page.wait(lambda: asked_range(page) != closer)
    wider = asked_range(page)
    assert wider[1] - wider[0] > closer[1] - closer[0]


def test_an_answer_that_is_no_longer_wanted_is_no_trouble(page: Browser, states: States) -> None:
    num_asked = "return performance.getEntriesByType('resource').length"
    before = page.script(num_asked)
    page.script(
        "const box = document.getElementById('lanes-box'); let left = 40;"
        "const turn = () => { box.dispatchEvent(new WheelEvent('wheel',"
        "{deltaY: left % 2 ? 90 : -90, bubbles: true, cancelable: true}));"
        "if (left--) setTimeout(turn, 7 * (left % 9)); }; turn()"
    )
    page.wait(lambda: page.script(num_asked) > before + 3)
    page.press("\ue010")
    at_step(page, max(states))
    assert not page.find("#status").is_displayed()


def test_hovering_tells_the_details(page: Browser) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    lanes = page.find("#lanes-box")
    half = lanes.size["width"] // 2
    move = ActionChains(page.driver).move_to_element_with_offset
    move(lanes, 4 - half, 0).perform()
    page.wait(lambda: "running" in page.text("#tooltip"))
    move(page.find("#batch .name"), 0, 0).perform()
    page.wait(lambda: "prompt tokens" in page.text("#tooltip"))
    blocks = page.find("#blocks")
    move(blocks, 8 - blocks.size["width"] // 2, 8 - blocks.size["height"] // 2).perform()
    page.wait(lambda: page.text("#tooltip").startswith("block 0"))


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_narrow_and_wide_in_light_and_dark(
    browser: Browser, address: str, width: int, dark: bool
) -> None:
    browser.open(address, width, dark=dark)
    at_step(browser, 1)
    assert browser.script("return document.documentElement.scrollWidth") <= width
    theme = browser.script("return document.documentElement.dataset.theme")
    assert theme == ("dark" if dark else "light")
    ground = browser.script("return getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in ground[4:-1].split(",")) / 3
    assert (brightness < 60) is dark


def test_the_button_changes_the_theme_and_the_page_remembers(page: Browser, address: str) -> None:
    theme = "return document.documentElement.dataset.theme"
    lanes = canvas_of(page, "#lanes")
    page.find("#theme").click()
    assert page.script(theme) == "dark"
    page.wait(drawn_anew(page, "#lanes", lanes))
    page.open(address)
    assert page.script(theme) == "dark"
    page.find("#theme").click()
    page.script("localStorage.clear()")


def test_everything_that_can_be_pressed_has_a_name_and_shows_its_focus(page: Browser) -> None:
    nameless = page.script(
        "return [...document.querySelectorAll('button, input, select, [tabindex]')].filter((e) =>"
        "!(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.labels?.length ||"
        "e.textContent.trim())).map((e) => e.outerHTML)"
    )
    assert nameless == []
    page.press("\ue004")
    outline = page.script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_the_list_of_keys_opens_and_closes(page: Browser) -> None:
    page.press("?")
    page.wait(lambda: page.find("#help").is_displayed())
    assert "play, pause" in page.text("#keys")
    page.press("\ue00c")
    page.wait(lambda: not page.find("#help").is_displayed())


def test_a_divergence_is_jumped_to_and_told(
    browser: Browser, journal: Path, other_code: CoreCode
) -> None:
    with serving(Recorded(journal, other_code)) as address:
        browser.open(address)
        browser.find("#next-divergence").click()
        browser.wait(lambda: "differs from the record" in browser.text("#reasons"))
        assert step_of(browser) == 60
        assert "StepDecided.digest[5]: recorded" in browser.text("#reasons")
        browser.find("#next").click()
        browser.wait(lambda: "only what was recorded" in browser.text("#reasons"))
    assert browser.complaints() == []


def hostile_run(directory: Path) -> Path:
    """Texts that a client, a worker and a configuration may hold."""
    meta = describe_run(CONFIG, LOGIC_VERSION, facts={"served_model_name": HOSTILE})
    recorder = Recorder.create(directory, meta, sync="none")
    engine = Engine(CONFIG)
    text = TextParams(stop=(HOSTILE, "two\nlines"))
    admit = AdmitRequest(
        RequestKey(1, 0),
        [1, 2, 3],
        SamplingParams(),
        StoppingParams(9),
        text,
        1,
        0,
        BlockHash(bytes(16)),
        [],
    )
    failure = SequenceFailure(SeqId(1), HOSTILE)
    events: list[CoreEvent] = [
        admit,
        StepBegan(StepId(1)),
        StepCompleted(StepId(1), [], 1, 2, [failure]),
    ]
    for number, event in enumerate(events, 1):
        recorder.append(tag_of(event), INPUT, encode(event), 1000 * number)
        for effect in engine.apply(event):
            recorder.append(tag_of(effect), EFFECT, encode(effect), 1000 * number)
        recorder.commit()
    recorder.close()
    return recorder.run_dir


def test_hostile_texts_are_shown_as_texts(browser: Browser, tmp_path: Path) -> None:
    with serving(Recorded(hostile_run(tmp_path), installed_core())) as address:
        browser.open(address)
        browser.find("#search").send_keys("1.0")
        browser.wait(lambda: browser.texts("#found [role=option] .id"))
        browser.press("\ue007")
        browser.wait(lambda: browser.texts("#life code"))
        assert browser.texts("#life code") == [HOSTILE, "two\nlines", HOSTILE]
        assert HOSTILE in browser.text("#run-facts")
        assert browser.find_all("img") == []
        assert len(browser.find_all("script")) == 1
        assert "owned" not in browser.driver.title
        assert browser.complaints() == [] and browser.strangers() == []


def test_a_server_that_has_gone_is_told(browser: Browser, recorded: Recorded) -> None:
    with serving(recorded) as address:
        browser.open(address)
        at_step(browser, 1)
    browser.find("#next").click()
    browser.wait(lambda: "does not answer" in browser.text("#status"))
    browser.complaints()
