// The block pool as a map: hue says who holds a block, pattern says in what state it is.

import { byId, element, sharpContext, showTooltip } from "./dom.js";
import { number, percent } from "./format.js";
import { colours, ownerColour } from "./palette.js";
import { view, watch } from "./view_state.js";
import { toggleHighlight } from "./search.js";

const STATES = ["free", "cached", "held", "shared", "fenced"];
const WORDS = {
  free: "free",
  cached: "cached, can be evicted",
  held: "held by one",
  shared: "shared",
  fenced: "fenced: an open step may write it",
};
const MAX_CELL = 28;

let cells = null; // of the state shown: { states, owners, pool }
let grid = null; // how they were laid out last

export function setUpBlockMap() {
  const canvas = byId("blocks");
  watch(["shown"], () => {
    const pool = view.shown?.pool;
    cells = pool ? { pool, states: decode(pool.states), owners: words(decode(pool.owners)) } : null;
    describe();
    drawBlockMap();
  });
  watch(["highlight"], drawBlockMap);
  new ResizeObserver(drawBlockMap).observe(canvas);
  canvas.addEventListener("pointermove", hover);
  canvas.addEventListener("pointerleave", () => showTooltip(null));
  canvas.addEventListener("click", (event) => {
    const owner = ownerOf(cellAt(event));
    if (owner) toggleHighlight(owner.request);
  });
}

function decode(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

function words(bytes) {
  const view16 = new DataView(bytes.buffer);
  return Uint16Array.from({ length: bytes.length / 2 }, (_, index) =>
    view16.getUint16(2 * index, true),
  );
}

function describe() {
  const counts = cells?.pool.counts;
  byId("blocks-count").textContent = counts
    ? `${number(cells.pool.num_blocks)} blocks${cells.pool.blocks_per_cell > 1 ? `, ${cells.pool.blocks_per_cell} to a cell` : ""}`
    : "";
  if (!counts) return byId("blocks-legend").replaceChildren();
  const swatches = {
    free: ["", "free"],
    cached: ["", "cached"],
    held: ["", "held"],
    shared: ["notched", "held"],
    fenced: ["hatched", "fenced"],
  };
  byId("blocks-legend").replaceChildren(
    ...STATES.map((state) =>
      element(
        "span",
        { title: WORDS[state] },
        element("i", {
          class: `swatch ${swatches[state][0]}`,
          "--swatch": `var(--${swatches[state][1]})`,
        }),
        `${state} ${number(counts[state])}`,
      ),
    ),
    element("span", {}, "hues: sequences, as in the batch"),
  );
  const busy = counts.held + counts.shared;
  byId("blocks").setAttribute(
    "aria-label",
    `Map of ${cells.pool.num_blocks} blocks: ${STATES.map((state) => `${counts[state]} ${state}`).join(", ")}; ${percent(busy, cells.pool.num_blocks)} taken`,
  );
}

/** The largest square cells that fit. */
function layOut(count, width, height) {
  let size = Math.min(MAX_CELL, Math.max(1, Math.floor(Math.sqrt((width * height) / count))));
  while (size > 1 && Math.ceil(count / Math.floor(width / size)) * size > height) size -= 1;
  if (size > 1) return { size, across: Math.floor(width / size) };
  const fine = Math.sqrt((width * height) / count); // more cells than pixels
  return { size: fine, across: Math.ceil(width / fine) };
}

export function drawBlockMap() {
  const { context, width, height } = sharpContext(byId("blocks"));
  if (!cells || !width) return;
  const ink = colours();
  const count = cells.states.length;
  grid = layOut(count, width, height);
  const { size, across } = grid;
  const gap = size >= 6 ? 1 : 0;
  const bright = highlighted();
  for (let cell = 0; cell < count; cell++) {
    const x = (cell % across) * size;
    const y = Math.floor(cell / across) * size;
    const state = STATES[cells.states[cell]];
    const owner = cells.owners[cell];
    const isMine = bright && bright.has(owner);
    context.globalAlpha = bright && !isMine && (state === "held" || state === "shared") ? 0.3 : 1;
    drawCell(context, ink, state, owner, x, y, size - gap);
    context.globalAlpha = 1;
    if (isMine && size >= 4) {
      context.strokeStyle = ink.highlight;
      context.lineWidth = size >= 9 ? 1.5 : 1;
      context.strokeRect(x + 0.5, y + 0.5, size - gap - 1, size - gap - 1);
    }
  }
}

function drawCell(context, ink, state, owner, x, y, side) {
  const sequence = owner ? view.shown.running.first[owner - 1] : null;
  context.fillStyle =
    state === "held" || state === "shared"
      ? sequence
        ? ownerColour(sequence.seq)
        : ink.held
      : ink[state];
  context.fillRect(x, y, side, side);
  if (state === "shared" && side >= 3) {
    context.fillStyle = ink.panel;
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(x + side * 0.55, y);
    context.lineTo(x, y + side * 0.55);
    context.fill();
  } else if (state === "fenced" && side >= 5) {
    context.strokeStyle = ink.panel;
    context.lineWidth = Math.max(1, side / 7);
    context.beginPath();
    for (const shift of [0.35, 0.85]) {
      context.moveTo(x + side * shift, y);
      context.lineTo(x, y + side * shift);
    }
    context.moveTo(x + side, y + side * 0.35);
    context.lineTo(x + side * 0.35, y + side);
    context.stroke();
  }
}

/** The numbers, among owners, of the highlighted request's sequences. */
function highlighted() {
  if (!view.highlight) return null;
  const found = new Set();
  view.shown.running.first.forEach((sequence, index) => {
    if (sequence.request === view.highlight.id) found.add(index + 1);
  });
  return found.size ? found : null;
}

function cellAt(event) {
  if (!cells || !grid) return -1;
  const box = byId("blocks").getBoundingClientRect();
  const column = Math.floor((event.clientX - box.left) / grid.size);
  const cell = Math.floor((event.clientY - box.top) / grid.size) * grid.across + column;
  return column < grid.across && cell < cells.states.length ? cell : -1;
}

function ownerOf(cell) {
  const owner = cell < 0 ? 0 : cells.owners[cell];
  return owner ? view.shown.running.first[owner - 1] : null;
}

function hover(event) {
  const cell = cellAt(event);
  if (cell < 0) return showTooltip(null);
  const { pool, states } = cells;
  const first = cell * pool.blocks_per_cell;
  const last = Math.min(pool.num_blocks, first + pool.blocks_per_cell) - 1;
  const state = STATES[states[cell]];
  const lines = [
    first === last
      ? `block ${number(first)}`
      : `blocks ${number(first)} to ${number(last)}, mostly:`,
    WORDS[state],
  ];
  const owner = ownerOf(cell);
  if (owner) {
    const others = state === "shared" ? " and others" : "";
    lines.push(`by sequence ${owner.seq} of request ${owner.request}${others}`);
  }
  showTooltip(lines, event.clientX, event.clientY);
}
