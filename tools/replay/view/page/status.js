// A line at the bottom: what the page has to say, and what went wrong.

import { byId } from "./dom.js";

const NOTE_MS = 4000;

let noteTimer = 0;
let isComplaint = false;

/** Says something for a while; without text the line goes away. */
export function tell(text) {
  write(text, "accent", false);
  if (text) noteTimer = setTimeout(() => tell(""), NOTE_MS);
}

/** Stays until something else is said, or `endComplaint`. */
export function complain(error) {
  write(error.message, "divergent", true);
}

export function endComplaint() {
  if (isComplaint) tell("");
}

function write(text, colour, isTrouble) {
  const status = byId("status");
  clearTimeout(noteTimer);
  isComplaint = isTrouble;
  status.hidden = !text;
  status.textContent = text;
  status.style.setProperty("--mark", `var(--${colour})`);
}
