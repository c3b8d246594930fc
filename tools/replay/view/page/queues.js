// Those who do not run: waiting in order, blocked behind a sibling, finished and not delivered.

import { byId, element } from "./dom.js";
import { number, plural } from "./format.js";
import { requestButton } from "./request_button.js";
import { fill, head, note } from "./table.js";
import { view, watch } from "./view_state.js";

const COLUMNS = [
  ["#", "number"],
  ["request", ""],
  ["tokens", "number"],
  ["priority", "number wide"],
  ["why", ""],
];

export function setUpQueues() {
  head(byId("waiting"), COLUMNS);
  watch(["shown", "highlight"], draw);
}

function draw() {
  const shown = view.shown;
  if (!shown) return fill(byId("waiting"), []);
  const { waiting, blocked, finished } = shown;
  byId("waiting-count").textContent = number(waiting.count);
  const rows = waiting.first.map((sequence, index) => row(sequence, index));
  if (!rows.length) rows.push(note("nobody waits", COLUMNS));
  if (waiting.count > waiting.first.length) {
    rows.push(note(`and ${number(waiting.count - waiting.first.length)} more`, COLUMNS));
  }
  fill(byId("waiting"), rows);
  byId("others").replaceChildren(
    ...group(blocked, "blocked, until a sibling has computed the prompt"),
    ...group(finished, "finished, not delivered yet"),
  );
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
