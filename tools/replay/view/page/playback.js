// Play and pause: at so many steps a second, or at the pace of the run itself.

import { byId } from "./dom.js";
import { change, goTo, view, watch } from "./view_state.js";

let frame = 0;
let before = 0;
let owed = 0; // steps, or seconds of the run, that are due and not shown yet

export function setUpPlayback() {
  byId("play").addEventListener("click", () => change({ isPlaying: !view.isPlaying }));
  watch(["isPlaying"], () => {
    const button = byId("play");
    button.setAttribute("aria-pressed", String(view.isPlaying));
    button.setAttribute("aria-label", view.isPlaying ? "Pause" : "Play");
    cancelAnimationFrame(frame);
    if (!view.isPlaying) return;
    change({ isFollowing: false });
    if (view.step >= view.run.steps.last) goTo(view.run.steps.first);
    before = performance.now();
    owed = 0;
    frame = requestAnimationFrame(advance);
  });
}

function advance(now) {
  if (!view.isPlaying) return;
  const seconds = Math.min(0.25, (now - before) / 1000);
  before = now;
  // What is on the screen keeps up: the next step is not shown before this one is there.
  if (view.shown?.step === view.step || view.shown === null) {
    const speed = byId("speed").value;
    owed += speed === "real" ? seconds / pace() : seconds * Number(speed);
    const count = Math.floor(owed);
    if (count) {
      owed -= count;
      goTo(view.step + count);
    }
  }
  if (view.step >= view.run.steps.last) return change({ isPlaying: false });
  frame = requestAnimationFrame(advance);
}

/** Seconds from the step shown to the next one, as it was. */
function pace() {
  return Math.max(0.0005, view.shown?.next_in_s ?? 0.05);
}
