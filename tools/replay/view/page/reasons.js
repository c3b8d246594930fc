// Why the step is as it is: its budget, who was passed over, who gave way, what is still open.

import { byId, element } from "./dom.js";
import { number, percent, plural } from "./format.js";
import { requestButton } from "./request_button.js";
import { view, watch } from "./view_state.js";

export function setUpReasons() {
  watch(["shown", "highlight"], draw);
}

function draw() {
  const shown = view.shown;
  drawBudget(shown?.budget);
  if (!shown) return byId("reasons").replaceChildren();
  byId("reasons").replaceChildren(
    ...shown.differs.map(difference),
    ...passedOver(shown.passed_over),
    ...shown.preempted.map(preemption),
    openSteps(shown.open_steps),
  );
}

function drawBudget(budget) {
  if (!budget) return byId("budget").replaceChildren();
  const used = budget.prefill + budget.decode;
  byId("budget-count").textContent =
    `${number(used)} of ${number(budget.limit)}, ${percent(used, budget.limit)}`;
  const part = (kind) =>
    element("i", { class: kind, width: `${(100 * budget[kind]) / budget.limit}%` });
  const key = (colour, text) =>
    element("span", {}, element("i", { class: "swatch", "--swatch": `var(--${colour})` }), text);
  byId("budget").replaceChildren(
    element(
      "div",
      {
        class: "stack",
        role: "img",
        "aria-label": `${budget.prefill} prefill, ${budget.decode} decode, ${budget.limit - used} unused`,
      },
      part("prefill"),
      part("decode"),
    ),
    element(
      "div",
      { class: "legend" },
      key("prefill", `prefill ${number(budget.prefill)}`),
      key("decode", `decode ${number(budget.decode)}`),
      key("unused", `unused ${number(budget.limit - used)}`),
    ),
  );
}

function passedOver(passed) {
  if (!passed) return [element("p", { class: "reason" }, "Everyone who could run was scheduled.")];
  const who = passed.request
    ? requestButton({ request: passed.request, seq: passed.seq, choice: 0 })
    : `sequence ${passed.seq}`;
  return [
    element(
      "p",
      { class: "reason", "--mark": "var(--waiting)" },
      element("strong", {}, "Passed over first: "),
      who,
      ` – ${passed.words}.`,
      passed.was_running ? " It was running." : "",
    ),
  ];
}

function preemption(event) {
  const winner =
    event.for_seq === event.seq
      ? "gave way to itself: it is the last in the order"
      : `gave way to ${event.for_request ?? `sequence ${event.for_seq}`}`;
  return element(
    "p",
    { class: "reason", "--mark": "var(--preempted)" },
    element("strong", {}, "▼ Preempted: "),
    requestButton(event),
    ` ${winner}; ${plural(event.computed, "computed token")} to compute again.`,
  );
}

function difference(text) {
  return element(
    "p",
    { class: "reason", "--mark": "var(--divergent)" },
    element("strong", {}, "✕ The replay differs from the record: "),
    text,
  );
}

function openSteps(steps) {
  const told = steps.map(
    (each) => `step ${number(each.step)} (${plural(each.sequences, "sequence")})`,
  );
  return element(
    "p",
    { class: "reason" },
    element("strong", {}, "Open: "),
    told.join(", ") || "none",
  );
}
