// What the page is looking at: one object, changed through `change`, watched through `watch`.

export const view = {
  run: null, // what /api/run said
  step: 0,
  from: 0, // the visible range of steps, both ends included
  until: 0,
  shown: null, // the state at a step, as /api/step said; may lag behind `step`
  highlight: null, // a request and its life, as /api/request said
  isPlaying: false,
  isFollowing: false,
};
const watchers = [];

export function watch(fields, callback) {
  watchers.push({ fields, callback });
}

export function change(changes) {
  const changed = Object.keys(changes).filter((field) => view[field] !== changes[field]);
  if (!changed.length) return;
  for (const field of changed) view[field] = changes[field];
  for (const { fields, callback } of watchers) {
    if (fields.some((field) => changed.includes(field))) callback();
  }
}

const MIN_VISIBLE = 20;

/** Moves to a step; the visible range follows when the step leaves it. */
export function goTo(step, { centre = false } = {}) {
  const { first, last } = view.run.steps;
  const target = Math.max(first, Math.min(last, Math.round(step)));
  const changes = { step: target };
  const span = view.until - view.from;
  if (centre && (target < view.from + span * 0.05 || target > view.until - span * 0.05)) {
    Object.assign(changes, placed(target - Math.round(span / 2), span));
  } else if (target < view.from) {
    Object.assign(changes, placed(target - Math.round(span * 0.1), span));
  } else if (target > view.until) {
    Object.assign(changes, placed(target - Math.round(span * 0.9), span));
  }
  change(changes);
}

/** Shows the steps from `from` on, `span` further, within the run. */
export function show(from, span) {
  change(placed(from, span));
}

export function zoom(factor, around = view.step) {
  const { first, last } = view.run.steps;
  const span = view.until - view.from;
  const wanted = Math.max(
    Math.min(MIN_VISIBLE, last - first),
    Math.min(last - first, span * factor),
  );
  const share = span ? (around - view.from) / span : 0.5;
  show(Math.round(around - share * wanted), Math.round(wanted));
}

function placed(from, span) {
  const { first, last } = view.run.steps;
  const width = Math.min(span, last - first);
  const start = Math.max(first, Math.min(last - width, Math.round(from)));
  return { from: start, until: start + width };
}
