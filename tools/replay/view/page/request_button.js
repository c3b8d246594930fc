// A request's name as a button that highlights it. Names come from the journal: text only.

import { element } from "./dom.js";
import { ownerVariable } from "./palette.js";
import { toggleHighlight } from "./search.js";
import { view } from "./view_state.js";

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
