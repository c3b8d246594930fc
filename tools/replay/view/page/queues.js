// Those who do not run: waiting in order, blocked behind a sibling, finished and not delivered.

import { keepFocus, requestButton } from "./batch.js";
import { byId, element } from "./dom.js";
import { number, plural } from "./format.js";
import { view, watch } from "./view_state.js";

const COLUMNS = [
  ["#", "number"],
  ["request", ""],
  ["tokens", "number"],
  ["priority", "number wide"],
  ["why", ""],
];

export function setUpQueues() {
  byId("waiting").append(
    element(
      "thead",
      {},
      element(
        "tr",
        {},
        ...COLUMNS.map(([title, kind]) => element("th", { class: kind, scope: "col" }, title)),
      ),
    ),
    element("tbody"),
  );
  watch(["shown", "highlight"], draw);
}

function draw() {
  const shown = view.shown;
  const body = byId("waiting").tBodies[0];
  if (!shown) return body.replaceChildren();
  const { waiting, blocked, finished } = shown;
  byId("waiting-count").textContent = number(waiting.count);
  const rows = waiting.first.map((sequence, index) => row(sequence, index));
  if (!rows.length) rows.push(note("nobody waits"));
  if (waiting.count > waiting.first.length) {
    rows.push(note(`and ${number(waiting.count - waiting.first.length)} more`));
  }
  keepFocus(body, rows);
  byId("others").replaceChildren(
    ...group(blocked, "blocked, until a sibling has computed the prompt"),
    ...group(finished, "finished, not delivered yet"),
  );
}

function note(text) {
  return element("tr", {}, element("td", { class: "empty", colspan: COLUMNS.length }, text));
}

function row(sequence, index) {
  return element(
    "tr",
    { class: sequence.request === view.highlight?.id ? "is-highlighted" : "" },
    element("td", { class: "number" }, String(index + 1)),
    element("td", {}, requestButton(sequence)),
    element("td", { class: "number" }, number(sequence.known)),
    element("td", { class: "number wide" }, String(sequence.level)),
    element("td", { class: "why" }, whyNot(sequence, index)),
  );
}

function whyNot(sequence, index) {
  const passed = view.shown.passed_over;
  const again = sequence.preemptions ? `, preempted ${sequence.preemptions}×` : "";
  if (passed?.seq === sequence.seq) return passed.words + again;
  const before = index ? view.shown.waiting.first[index - 1].request : passed?.request;
  return (before ? `behind ${before}` : "not visited in this step") + again;
}

function group(queue, title) {
  if (!queue.count) return [];
  const shown = queue.first.slice(0, 24);
  const more = queue.count - shown.length;
  return [
    element(
      "p",
      { class: "others" },
      `${plural(queue.count, "sequence")} ${title}: `,
      ...shown.flatMap((sequence) => [
        requestButton(sequence),
        sequence.reason ? `${sequence.reason} ` : " ",
      ]),
      more > 0 ? `and ${number(more)} more` : null,
    ),
  ];
}
