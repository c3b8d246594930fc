// The running batch, in the order in which it is served; the last is preempted first.

import { byId, element, showTooltip } from "./dom.js";
import { number } from "./format.js";
import { ownerVariable } from "./palette.js";
import { toggleHighlight } from "./search.js";
import { view, watch } from "./view_state.js";

const COLUMNS = [
  ["request", ""],
  ["progress", "grows"],
  ["tokens", "number"],
  ["this step", "number"],
  ["blocks", "number"],
  ["priority", "number wide"],
  ["", "wide"],
];

export function setUpBatch() {
  const table = byId("batch");
  table.append(
    element(
      "thead",
      {},
      element(
        "tr",
        {},
        ...COLUMNS.map(([title, kind]) =>
          element("th", { class: kind.replace("grows", ""), scope: "col" }, title),
        ),
      ),
    ),
    element("tbody"),
  );
  watch(["shown", "highlight"], draw);
  table.addEventListener("pointermove", hover);
  table.addEventListener("pointerleave", () => showTooltip(null));
}

/** A request's name as a button that highlights it. Names come from the journal: text only. */
export function requestButton(sequence) {
  const choice = sequence.choice ? ` #${sequence.choice}` : "";
  return element(
    "button",
    {
      class: "name",
      type: "button",
      onclick: () => toggleHighlight(sequence.request),
      "aria-pressed": String(view.highlight?.id === sequence.request),
      title: `sequence ${sequence.seq}`,
    },
    element("span", { class: "dot", "--dot": ownerVariable(sequence.seq) }),
    `${sequence.request}${choice}`,
  );
}

function draw() {
  const running = view.shown?.running;
  const body = byId("batch").tBodies[0];
  if (!running) return body.replaceChildren();
  const scheduled = running.first.filter((sequence) => sequence.chunk).length;
  byId("batch-count").textContent =
    `${number(running.count)} of ${number(view.run.config.max_num_seqs)}, ${number(scheduled)} in this step`;
  const rows = running.first.map(row);
  if (!rows.length) rows.push(note("nobody runs"));
  if (running.count > running.first.length) {
    rows.push(note(`and ${number(running.count - running.first.length)} more`));
  }
  keepFocus(body, rows);
  byId("batch").classList.toggle(
    "dims",
    rows.some((each) => each.classList.contains("is-highlighted")),
  );
}

/** The rows are new at every step; whoever had the keyboard's focus by name gets it back. */
export function keepFocus(body, rows) {
  const focused = body.contains(document.activeElement) ? document.activeElement.textContent : null;
  body.replaceChildren(...rows);
  if (focused === null) return;
  const again = [...body.querySelectorAll("button")].find((each) => each.textContent === focused);
  again?.focus({ preventScroll: true });
}

function note(text) {
  return element("tr", {}, element("td", { class: "empty", colspan: COLUMNS.length }, text));
}

function row(sequence) {
  const chips = [];
  if (sequence.enters) chips.push(chip(sequence.preemptions ? "resumes" : "enters", "accent"));
  if (sequence.preemptions) chips.push(chip(`preempted ${sequence.preemptions}×`, "preempted"));
  if (sequence.cached) chips.push(chip(`${number(sequence.cached)} cached`, null));
  const kind = sequence.is_prefill ? "prefill" : "decode";
  const made = element(
    "tr",
    { class: sequence.request === view.highlight?.id ? "is-highlighted" : "" },
    element("td", {}, requestButton(sequence)),
    element("td", { class: "grows" }, progress(sequence)),
    element("td", { class: "number" }, `${number(sequence.computed)}/${number(sequence.known)}`),
    element("td", { class: "number" }, sequence.chunk ? `${number(sequence.chunk)} ${kind}` : "–"),
    element(
      "td",
      { class: "number" },
      sequence.new_blocks
        ? `${number(sequence.blocks)} (+${sequence.new_blocks})`
        : number(sequence.blocks),
    ),
    element("td", { class: "number wide" }, String(sequence.level)),
    element("td", { class: "wide" }, ...chips),
  );
  made.sequence = sequence;
  return made;
}

function chip(text, colour) {
  return element("span", { class: "chip", "--chip": colour ? `var(--${colour})` : null }, text);
}

/** Prompt, output and this step's share, on a scale that ends at max_tokens. */
function progress(sequence) {
  const share = (count) => `${(100 * count) / sequence.limit}%`;
  const inPrompt = Math.min(sequence.computed, sequence.prompt);
  const part = (kind, from, count) => {
    const made = element("i", { class: kind, width: share(count) });
    made.style.left = share(from);
    return made;
  };
  return element(
    "div",
    { class: "progress", "aria-hidden": "true" },
    part("prompt", 0, sequence.prompt),
    part("computed", 0, inPrompt),
    part("output", sequence.prompt, Math.max(0, sequence.computed - sequence.prompt)),
    sequence.chunk
      ? part(
          sequence.is_prefill ? "chunk wide-chunk" : "chunk",
          sequence.scheduled - sequence.chunk,
          sequence.chunk,
        )
      : null,
  );
}

function hover(event) {
  const sequence = event.target.closest("tr")?.sequence;
  if (!sequence) return showTooltip(null);
  const lines = [
    `request ${sequence.request}, sequence ${sequence.seq}, row ${sequence.row}`,
    `${number(sequence.prompt)} prompt tokens, at most ${number(sequence.limit - sequence.prompt)} to put out`,
    `${number(sequence.computed)} computed, ${number(sequence.scheduled)} scheduled, ${number(sequence.known)} known`,
    `in ${sequence.open_steps} open steps; arrival ${number(sequence.arrival)}`,
  ];
  if (sequence.cached)
    lines.push(`${number(sequence.cached)} prompt tokens came from the prefix cache`);
  if (sequence.preemptions) lines.push(`preempted ${sequence.preemptions} times before`);
  showTooltip(lines, event.clientX, event.clientY);
}
