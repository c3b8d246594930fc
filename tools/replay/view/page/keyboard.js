// One hand on the keyboard moves through the run.

import { byId, element } from "./dom.js";
import { jump } from "./jumps.js";
import { change, goTo, view, zoom } from "./view_state.js";

const page = () => Math.max(1, Math.round((view.until - view.from) / 10));
const by = (count) => () => goTo(view.step + count());

const KEYS = [
  {
    keys: ["ArrowLeft"],
    shown: "←  →",
    says: "one step back, on (with Shift: ten)",
    act: by(() => -1),
  },
  { keys: ["ArrowRight"], act: by(() => 1) },
  { keys: ["Shift+ArrowLeft"], act: by(() => -10) },
  { keys: ["Shift+ArrowRight"], act: by(() => 10) },
  {
    keys: ["PageUp"],
    shown: "PgUp  PgDn",
    says: "a tenth of what is visible",
    act: by(() => -page()),
  },
  { keys: ["PageDown"], act: by(() => page()) },
  {
    keys: ["Home"],
    shown: "Home  End",
    says: "the first step, the last one",
    act: () => goTo(view.run.steps.first),
  },
  { keys: ["End"], act: () => goTo(view.run.steps.last) },
  {
    keys: [" "],
    shown: "space",
    says: "play, pause",
    act: () => change({ isPlaying: !view.isPlaying }),
    plays: true,
  },
  {
    keys: ["+", "="],
    shown: "+  −",
    says: "zoom; so does the wheel (with Shift: move)",
    act: () => zoom(0.6),
  },
  { keys: ["-"], act: () => zoom(1 / 0.6) },
  {
    keys: ["p"],
    shown: "p  m  d",
    says: "next preemption, cache miss, divergence (with Shift: previous)",
    act: () => jump("preemption", "next"),
  },
  { keys: ["Shift+P"], act: () => jump("preemption", "previous") },
  { keys: ["m"], act: () => jump("miss", "next") },
  { keys: ["Shift+M"], act: () => jump("miss", "previous") },
  { keys: ["d"], act: () => jump("divergence", "next") },
  { keys: ["Shift+D"], act: () => jump("divergence", "previous") },
  { keys: ["/"], shown: "/", says: "find a request", act: () => byId("search").focus() },
  {
    keys: ["f"],
    shown: "f",
    says: "follow the end of a run that goes on",
    act: () => view.run.is_live && change({ isFollowing: !view.isFollowing }),
  },
  {
    keys: ["Escape"],
    shown: "Esc",
    says: "forget the highlighted request",
    act: () => change({ highlight: null }),
  },
  { keys: ["?"], shown: "?", says: "this list", act: () => byId("help").showModal() },
];

export function setUpKeyboard() {
  byId("keys").replaceChildren(
    ...KEYS.filter((each) => each.shown).flatMap(({ shown, says }) => [
      element("dt", {}, shown),
      element("dd", {}, says),
    ]),
  );
  byId("help-open").addEventListener("click", () => byId("help").showModal());
  document.addEventListener("keydown", onKey);
}

function onKey(event) {
  if (!view.run?.steps.count || event.ctrlKey || event.metaKey || event.altKey) return;
  if (byId("help").open || isTyping(event)) return;
  const name =
    (event.shiftKey && event.key.length > 1) || /^[A-Z]$/.test(event.key)
      ? `Shift+${event.key}`
      : event.key;
  const found = KEYS.find(({ keys }) => keys.includes(name));
  if (!found) return;
  event.preventDefault();
  if (!found.plays && found.keys[0] !== "Escape" && found.keys[0] !== "?") {
    change({ isPlaying: false });
    if (/Arrow|Page|Home/.test(event.key)) change({ isFollowing: false });
  }
  found.act();
}

/** Fields keep their keys; a button keeps the space that presses it. */
function isTyping(event) {
  const target = event.target instanceof Element ? event.target : document.body;
  if (target.matches("input:not([type=checkbox]), select, textarea")) return true;
  return target.matches("button, input, summary") && (event.key === " " || event.key === "Enter");
}
