// Colours come from palette.css, so that canvases and elements agree, in light and in dark.

const NUM_OWNERS = 8;
let known = null;

export function colours() {
  if (known) return known;
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(`--${name}`).trim();
  known = { owners: Array.from({ length: NUM_OWNERS }, (_, index) => read(`owner-${index}`)) };
  for (const name of [
    "panel",
    "line",
    "line-soft",
    "ink",
    "ink-soft",
    "accent",
    "accent-ground",
    "prefill",
    "decode",
    "unused",
    "waiting",
    "running",
    "held",
    "cached",
    "free",
    "fenced",
    "preempted",
    "missed",
    "divergent",
    "highlight",
  ]) {
    known[name] = read(name);
  }
  return known;
}

export const forgetColours = () => {
  known = null;
};

/** The hue of a sequence: the same at every step, and apart from its neighbours'. */
export const ownerVariable = (seq) => `var(--owner-${seq % NUM_OWNERS})`;
export const ownerColour = (seq) => colours().owners[seq % NUM_OWNERS];
