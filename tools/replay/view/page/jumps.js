// From one remarkable step to the next: preemptions, cache misses, divergences.

import { findNext } from "./api.js";
import { byId, element } from "./dom.js";
import { number } from "./format.js";
import { complain, tell } from "./status.js";
import { change, goTo, view, watch } from "./view_state.js";

export const KINDS = {
  preemption: { mark: "▼", colour: "preempted", noun: "preemption", total: "preemptions" },
  miss: { mark: "●", colour: "missed", noun: "cache miss", total: "misses" },
  divergence: { mark: "✕", colour: "divergent", noun: "divergence", total: "divergences" },
};

export function setUpJumps() {
  byId("jumps").replaceChildren(
    ...Object.entries(KINDS).map(([kind, { mark, colour, noun }]) =>
      element(
        "span",
        { class: "jump", role: "group", "aria-label": noun },
        button(kind, "previous", "◂", noun),
        element("span", {
          class: "total",
          "data-mark": mark,
          "--mark": `var(--${colour})`,
          id: `total-${kind}`,
        }),
        button(kind, "next", "▸", noun),
      ),
    ),
  );
  watch(["run"], drawTotals);
}

export async function jump(kind, direction) {
  change({ isPlaying: false, isFollowing: false });
  try {
    const found = await findNext(kind, view.step, direction);
    if (found.step !== null) goTo(found.step, { centre: true });
    tell(
      found.step === null
        ? `no ${KINDS[kind].noun} ${direction === "next" ? "behind" : "before"} step ${number(view.step)}`
        : "",
    );
  } catch (error) {
    complain(error);
  }
}

function button(kind, direction, sign, noun) {
  return element(
    "button",
    {
      class: "icon",
      type: "button",
      id: `${direction}-${kind}`,
      onclick: () => jump(kind, direction),
      "aria-label": `${direction === "next" ? "Next" : "Previous"} ${noun}`,
    },
    sign,
  );
}

function drawTotals() {
  for (const [kind, { noun, total }] of Object.entries(KINDS)) {
    const count = view.run.totals[total];
    byId(`total-${kind}`).replaceChildren(
      number(count),
      element("span", { class: "noun" }, ` ${count === 1 ? noun : plurals(noun)}`),
    );
    for (const direction of ["previous", "next"])
      byId(`${direction}-${kind}`).disabled = count === 0;
  }
}

const plurals = (noun) => (noun.endsWith("s") ? `${noun}es` : `${noun}s`);
