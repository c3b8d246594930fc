// A table of sequences. Columns are [title, class]; the rows are new at every step.

import { element } from "./dom.js";

export function head(table, columns) {
  const cells = columns.map(([title, kind]) =>
    element("th", { class: kind.replace("grows", ""), scope: "col" }, title),
  );
  table.append(element("thead", {}, element("tr", {}, ...cells)), element("tbody"));
}

/** A row that says something instead of a sequence. */
export function note(text, columns) {
  return element("tr", {}, element("td", { class: "empty", colspan: columns.length }, text));
}

/** Whoever had the keyboard's focus by name gets it back. */
export function fill(table, rows) {
  const body = table.tBodies[0];
  const focused = body.contains(document.activeElement) ? document.activeElement.textContent : null;
  body.replaceChildren(...rows);
  if (focused === null) return;
  const again = [...body.querySelectorAll("button")].find((each) => each.textContent === focused);
  again?.focus({ preventScroll: true });
}
