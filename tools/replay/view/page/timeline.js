// The time line: what it shows of the run, how it is moved, and what the pointer is told.

import { getSteps } from "./api.js";
import { byId, element, showTooltip } from "./dom.js";
import { clock, mean, number, plural } from "./format.js";
import { KINDS } from "./jumps.js";
import { drawLanes, drawOverview } from "./lanes.js";
import { complain } from "./status.js";
import { change, goTo, show, view, watch, zoom } from "./view_state.js";

const MAX_BINS = 1500;
let bins = null; // the visible range's, or an older range's while that is on its way
let overviewBins = null;
let overviewLast = -1;
let isDirty = false;

export function setUpTimeline() {
  const box = byId("lanes-box");
  scrubWith(box);
  panWith(byId("overview"));
  box.addEventListener("wheel", onWheel, { passive: false });
  byId("overview").addEventListener("wheel", onWheel, { passive: false });
  watch(["from", "until"], loadRange);
  watch(["step", "from", "until", "highlight", "shown"], redrawSoon);
  watch(["run"], onRun);
  watch(["step", "run"], describeToReaders);
  new ResizeObserver(() => {
    loadRange();
    redrawSoon();
  }).observe(box);
  byId("timeline-legend").replaceChildren(
    ...[
      ["prefill", "prefill", ""],
      ["decode", "decode", ""],
      ["running", "running", "line"],
      ["waiting", "waiting", "line"],
      ["held", "blocks taken", ""],
    ].map(([colour, text, shape]) =>
      element(
        "span",
        {},
        element("i", { class: `swatch ${shape}`, "--swatch": `var(--${colour})` }),
        text,
      ),
    ),
    ...Object.values(KINDS).map(({ mark, colour, noun }) =>
      element(
        "span",
        {},
        element("i", { class: "swatch mark", "--swatch": `var(--${colour})` }, mark),
        noun,
      ),
    ),
  );
}

export function redrawSoon() {
  if (isDirty) return;
  isDirty = true;
  requestAnimationFrame(() => {
    isDirty = false;
    drawOverview(overviewBins);
    drawLanes(bins);
  });
}

// What is asked of the server.

let pending = null;
let timer = 0;

function loadRange() {
  clearTimeout(timer);
  timer = setTimeout(fetchRange, bins ? 50 : 0);
}

async function fetchRange() {
  if (!view.run?.steps.count) return;
  pending?.abort();
  pending = new AbortController();
  const width = byId("lanes").clientWidth || 800;
  const count = Math.min(MAX_BINS, Math.max(50, Math.floor(width)));
  try {
    bins = await getSteps(view.from, view.until, count, pending.signal);
    redrawSoon();
  } catch (error) {
    if (error.name !== "AbortError") complain(error);
  }
}

async function onRun() {
  const { first, last, count } = view.run.steps;
  if (!count || last === overviewLast) return;
  overviewLast = last;
  try {
    overviewBins = await getSteps(first, last, 600);
    if (bins && view.until >= bins.until) loadRange();
    redrawSoon();
  } catch (error) {
    complain(error);
  }
}

// How it is moved.

function stepAt(event, canvas, from, until) {
  const { left, width } = canvas.getBoundingClientRect();
  const share = Math.max(0, Math.min(1, (event.clientX - left) / width));
  return Math.min(until, Math.floor(from + share * (until - from + 1)));
}

function scrubWith(box) {
  let isScrubbing = false;
  const scrub = (event) => {
    change({ isFollowing: false });
    goTo(stepAt(event, box, view.from, view.until));
  };
  box.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !view.run?.steps.count) return;
    isScrubbing = true;
    box.setPointerCapture(event.pointerId);
    change({ isPlaying: false });
    scrub(event);
  });
  box.addEventListener("pointermove", (event) => {
    if (isScrubbing) scrub(event);
    hover(event, box);
  });
  const stop = () => {
    isScrubbing = false;
  };
  box.addEventListener("pointerup", stop);
  box.addEventListener("pointercancel", stop);
  box.addEventListener("pointerleave", () => showTooltip(null));
}

function panWith(canvas) {
  let isPanning = false;
  const pan = (event) => {
    const { first, last } = view.run.steps;
    const span = view.until - view.from;
    change({ isFollowing: false });
    show(stepAt(event, canvas, first, last) - Math.round(span / 2), span);
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !view.run?.steps.count) return;
    isPanning = true;
    canvas.setPointerCapture(event.pointerId);
    pan(event);
  });
  canvas.addEventListener("pointermove", (event) => isPanning && pan(event));
  canvas.addEventListener("pointerup", () => {
    isPanning = false;
  });
  canvas.addEventListener("pointercancel", () => {
    isPanning = false;
  });
}

function onWheel(event) {
  if (!view.run?.steps.count || event.ctrlKey) return;
  event.preventDefault();
  const span = view.until - view.from;
  if (Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey) {
    const moved = ((event.deltaX || event.deltaY) / (event.currentTarget.clientWidth || 1)) * span;
    show(view.from + (Math.round(moved) || Math.sign(moved)), span);
    return;
  }
  const isOverview = event.currentTarget.id === "overview";
  const around = isOverview ? view.step : stepAt(event, event.currentTarget, view.from, view.until);
  zoom(Math.exp(Math.max(-120, Math.min(120, event.deltaY)) / 240), around);
}

function describeToReaders() {
  const box = byId("lanes-box");
  const { first, last } = view.run?.steps ?? { first: 0, last: 0 };
  box.setAttribute("aria-valuemin", first);
  box.setAttribute("aria-valuemax", last);
  box.setAttribute("aria-valuenow", view.step);
  box.setAttribute("aria-valuetext", `step ${view.step} of ${last}`);
}

function hover(event, box) {
  const index = bins ? binOf(stepAt(event, box, view.from, view.until)) : -1;
  const columns = bins?.columns;
  if (index < 0 || !columns.steps[index]) return showTooltip(null);
  const first = columns.first[index];
  const several = columns.steps[index] > 1;
  const lines = [
    several
      ? `steps ${number(first)} to ${number(columns.last[index])}, means`
      : `step ${number(first)}`,
    `at ${clock(columns.t_s[index])}`,
    `tokens: ${mean(columns.prefill[index])} prefill, ${mean(columns.decode[index])} decode`,
    `${mean(columns.running[index])} running, ${mean(columns.waiting[index])} waiting`,
    `${number(columns.free[index])} of ${number(view.run.config.num_blocks)} blocks available`,
  ];
  if (columns.preempted[index]) lines.push(plural(columns.preempted[index], "preemption"));
  if (columns.missed[index])
    lines.push(plural(columns.missed[index], "prompt block") + " not in the cache");
  if (columns.hit[index])
    lines.push(plural(columns.hit[index], "prompt token") + " from the cache");
  if (columns.divergent[index]) lines.push("the replay differs from the record here");
  showTooltip(lines, event.clientX, event.clientY);
}

function binOf(step) {
  if (step < bins.from || step > bins.until) return -1;
  return Math.floor(((step - bins.from) * bins.bins) / (bins.until - bins.from + 1));
}
