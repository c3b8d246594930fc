// What the time line looks like: an overview of the whole run, and lanes with the visible range.

import { byId, sharpContext } from "./dom.js";
import { number } from "./format.js";
import { colours } from "./palette.js";
import { view } from "./view_state.js";

const LANE_GAP = 7;
const TOP = 4;
const LABEL = 15;
const AXIS = 16;
// Shares of the height that is left beside marks, life and axis.
const LANES = [
  {
    name: "tokens in the step",
    share: 0.4,
    draw: drawTokens,
    limit: (bins) =>
      `at most ${number(bins.max_tokens)} here, ${number(view.run.config.max_num_batched_tokens)} allowed`,
  },
  {
    name: "sequences: running, waiting",
    share: 0.33,
    draw: drawSequences,
    limit: (bins) => `at most ${number(bins.max_sequences)} here`,
  },
  {
    name: "blocks taken",
    share: 0.27,
    draw: drawBlocks,
    limit: () => `of ${number(view.run.config.num_blocks)}`,
  },
];
const MARKS = [
  { column: "preempted", colour: "preempted", shape: drawTriangle },
  { column: "missed", colour: "missed", shape: drawDot },
  { column: "divergent", colour: "divergent", shape: drawCross },
];
const MARK_HEIGHT = 11;
const LIFE_HEIGHT = 14;

export function drawOverview(bins) {
  const { context, width, height } = sharpContext(byId("overview"));
  if (!bins || !width) return;
  const { first, last } = view.run.steps;
  const scale = { x: (step) => ((step - first) / (last - first + 1)) * width, width };
  drawTokens(context, bins, scale, 3, height - 6);
  drawMarks(context, bins, scale, 4);
  const left = scale.x(view.from);
  const right = Math.max(left + 3, scale.x(view.until + 1));
  const ink = colours();
  context.fillStyle = ink.panel;
  context.globalAlpha = 0.62;
  context.fillRect(0, 0, left, height);
  context.fillRect(right, 0, width - right, height);
  context.globalAlpha = 1;
  context.strokeStyle = ink.accent;
  context.lineWidth = 1.5;
  context.strokeRect(left + 0.75, 0.75, Math.max(2, right - left - 1.5), height - 1.5);
  drawPlayhead(context, scale, height);
}

export function drawLanes(bins) {
  const { context, width, height } = sharpContext(byId("lanes"));
  if (!view.run || !width) return;
  const ink = colours();
  const span = view.until - view.from + 1;
  const scale = { x: (step) => ((step - view.from) / span) * width, width };
  const lifeHeight = view.highlight ? LABEL + LIFE_HEIGHT + LANE_GAP : 0;
  const left = height - TOP - AXIS - MARK_HEIGHT - (LABEL + LANE_GAP) * LANES.length - lifeHeight;
  let y = TOP;
  for (const lane of LANES) {
    const laneHeight = Math.floor(left * lane.share);
    label(context, lane.name, y, scale.width, bins && lane.limit(bins));
    if (bins) lane.draw(context, bins, scale, y + LABEL, laneHeight);
    y += LABEL + laneHeight + LANE_GAP;
    context.fillStyle = ink["line-soft"];
    context.fillRect(0, Math.round(y - LANE_GAP / 2), width, 1);
  }
  if (bins) drawMarks(context, bins, scale, y + MARK_HEIGHT / 2);
  y += MARK_HEIGHT;
  if (view.highlight) drawLife(context, scale, y + LANE_GAP / 2);
  drawAxis(context, scale, height);
  drawPlayhead(context, scale, height - AXIS, true);
}

function label(context, text, y, width, limit) {
  const ink = colours();
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "top";
  context.fillStyle = ink["ink-soft"];
  context.textAlign = "left";
  context.fillText(text, 6, y);
  if (!limit) return;
  context.textAlign = "right";
  context.fillText(limit, width - 6, y);
}

function eachBin(some, scale, draw) {
  const perBin = (some.until - some.from + 1) / some.bins;
  const count = some.columns.steps;
  for (let index = 0; index < some.bins; index++) {
    if (!count[index]) continue;
    const left = scale.x(some.from + index * perBin);
    const right = scale.x(some.from + (index + 1) * perBin);
    if (right < 0 || left > scale.width) continue;
    draw(index, left, right - left);
  }
}

// A hair of overlap hides the seams between thin bars; wide ones stand apart.
const barWidth = (width) => (width > 4 ? width - 1 : width + 0.6);

function drawTokens(context, some, scale, y, height) {
  const ink = colours();
  const { prefill, decode, tokens_max: most } = some.columns;
  const top = Math.max(1, some.max_tokens);
  const bottom = y + height;
  eachBin(some, scale, (index, left, width) => {
    const bar = barWidth(width);
    if (some.until - some.from + 1 > some.bins) {
      context.fillStyle = ink.unused;
      const peak = (most[index] / top) * height;
      context.fillRect(left, bottom - peak, bar, peak);
    }
    const decodes = (decode[index] / top) * height;
    const prefills = (prefill[index] / top) * height;
    context.fillStyle = ink.decode;
    context.fillRect(left, bottom - decodes, bar, decodes);
    context.fillStyle = ink.prefill;
    context.fillRect(left, bottom - decodes - prefills, bar, prefills);
  });
}

function drawSequences(context, some, scale, y, height) {
  const ink = colours();
  const top = Math.max(1, some.max_sequences);
  const bottom = y + height;
  const line = (column, colour) => {
    context.beginPath();
    let before = null;
    eachBin(some, scale, (index, left, width) => {
      const level = bottom - (some.columns[column][index] / top) * (height - 2) - 1;
      if (before === null || left - before > 1) context.moveTo(left, level);
      else context.lineTo(left, level);
      context.lineTo(left + width, level);
      before = left + width;
    });
    context.strokeStyle = colour;
    context.lineWidth = 1.5;
    context.stroke();
  };
  context.beginPath();
  eachBin(some, scale, (index, left, width) => {
    const filled = (some.columns.running[index] / top) * (height - 2);
    context.rect(left, bottom - filled, width, filled);
  });
  context.fillStyle = ink.running;
  context.globalAlpha = 0.16;
  context.fill();
  context.globalAlpha = 1;
  line("running", ink.running);
  line("waiting", ink.waiting);
}

function drawBlocks(context, some, scale, y, height) {
  const ink = colours();
  const total = view.run.config.num_blocks;
  const bottom = y + height;
  const { free } = some.columns;
  eachBin(some, scale, (index, left, width) => {
    const used = (1 - free[index] / total) * height;
    context.fillStyle = ink.held;
    context.fillRect(left, bottom - used, barWidth(width), used);
  });
}

function drawMarks(context, some, scale, y) {
  const ink = colours();
  for (const { column, colour, shape } of MARKS) {
    context.fillStyle = context.strokeStyle = ink[colour];
    let last = -9;
    eachBin(some, scale, (index, left, width) => {
      const x = left + width / 2;
      // Marks closer together than a pixel or two say no more than one.
      if (!some.columns[column][index] || x - last < 3) return;
      shape(context, x, y);
      last = x;
    });
  }
}

function drawTriangle(context, x, y) {
  context.beginPath();
  context.moveTo(x - 3.5, y - 3.5);
  context.lineTo(x + 3.5, y - 3.5);
  context.lineTo(x, y + 3);
  context.fill();
}

function drawDot(context, x, y) {
  context.beginPath();
  context.arc(x, y + 1, 1.8, 0, 7);
  context.fill();
}

function drawCross(context, x, y) {
  context.lineWidth = 2;
  context.beginPath();
  context.moveTo(x - 3.5, y - 3.5);
  context.lineTo(x + 3.5, y + 3.5);
  context.moveTo(x + 3.5, y - 3.5);
  context.lineTo(x - 3.5, y + 3.5);
  context.stroke();
}

function drawLife(context, scale, top) {
  const ink = colours();
  const y = top + LABEL;
  label(
    context,
    `request ${view.highlight.id}: waits, prefills, decodes, is preempted`,
    top,
    scale.width,
  );
  for (const [kind, from, until] of view.highlight.spans) {
    const left = Math.max(0, scale.x(from));
    const right = Math.min(scale.width, Math.max(scale.x(until + 1), scale.x(from) + 2));
    if (right < 0 || left > scale.width) continue;
    context.fillStyle = ink[kind];
    const inset = kind === "waiting" || kind === "preempted" ? 4 : 0;
    context.fillRect(left, y + inset, right - left, LIFE_HEIGHT - 2 * inset);
  }
}

function drawAxis(context, scale, height) {
  const ink = colours();
  const span = view.until - view.from + 1;
  const rough = span / Math.max(2, Math.floor(scale.width / 110));
  const power = 10 ** Math.floor(Math.log10(Math.max(1, rough)));
  const every =
    [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough) ?? power;
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "bottom";
  context.textAlign = "left";
  for (let step = Math.ceil(view.from / every) * every; step <= view.until; step += every) {
    const x = Math.round(scale.x(step));
    context.fillStyle = ink.line;
    context.fillRect(x, height - AXIS, 1, AXIS);
    if (x > scale.width - 44) continue;
    context.fillStyle = ink["ink-soft"];
    context.fillText(number(step), x + 4, height - 2);
  }
}

function drawPlayhead(context, scale, height, withKnob = false) {
  const ink = colours();
  const left = scale.x(view.step);
  const width = scale.x(view.step + 1) - left;
  if (left < -2 || left > scale.width + 2) return;
  if (width > 3) {
    context.fillStyle = ink.accent;
    context.globalAlpha = 0.18;
    context.fillRect(left, 0, width, height);
    context.globalAlpha = 1;
  }
  const x = Math.max(1, Math.min(scale.width - 1, left + width / 2));
  context.fillStyle = ink.accent;
  context.fillRect(x - 0.75, 0, 1.5, height);
  if (!withKnob) return;
  context.beginPath();
  context.arc(x, height, 4.5, 0, 7);
  context.fill();
}
