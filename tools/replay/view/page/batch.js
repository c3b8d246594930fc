// The running batch, in the order in which it is served; the last is preempted first.

import { byId, element, showTooltip } from "./dom.js";
import { number } from "./format.js";
import { requestButton } from "./request_button.js";
import { fill, head, note } from "./table.js";
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
  head(table, COLUMNS);
  watch(["shown", "highlight"], draw);
  table.addEventListener("pointermove", hover);
  table.addEventListener("pointerleave", () => showTooltip(null));
}

function draw() {
  const running = view.shown?.running;
  if (!running) return fill(byId("batch"), []);
  const scheduled = running.first.filter((sequence) => sequence.chunk).length;
  byId("batch-count").textContent =
    `${number(running.count)} of ${number(view.run.config.max_num_seqs)}, ${number(scheduled)} in this step`;
  const rows = running.first.map(row);
  if (!rows.length) rows.push(note("nobody runs", COLUMNS));
  if (running.count > running.first.length) {
    rows.push(note(`and ${number(running.count - running.first.length)} more`, COLUMNS));
  }
  fill(byId("batch"), rows);
  byId("batch").classList.toggle(
    "dims",
    rows.some((each) => each.classList.contains("is-highlighted")),
  );
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
