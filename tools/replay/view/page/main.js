// The page of `engine-replay view`: wires its parts together and keeps up with a run that goes on.

import { getRun, getStep, latestOnly } from "./api.js";
import { setUpBatch } from "./batch.js";
import { drawBlockMap, setUpBlockMap } from "./block_map.js";
import { byId } from "./dom.js";
import { clock, duration, number, plural } from "./format.js";
import { setUpJumps } from "./jumps.js";
import { setUpKeyboard } from "./keyboard.js";
import { setUpPlayback } from "./playback.js";
import { setUpQueues } from "./queues.js";
import { setUpReasons } from "./reasons.js";
import { setUpSearch } from "./search.js";
import { complain, endComplaint, tell } from "./status.js";
import { setUpTheme } from "./theme.js";
import { redrawSoon, setUpTimeline } from "./timeline.js";
import { change, goTo, view, watch } from "./view_state.js";

const POLL_MS = 1000;
const FIRST_VISIBLE = 400;

start();

async function start() {
  setUpTimeline();
  setUpBatch();
  setUpQueues();
  setUpReasons();
  setUpBlockMap();
  setUpSearch();
  setUpJumps();
  setUpKeyboard();
  setUpPlayback();
  setUpTransport();
  setUpTheme(() => {
    redrawSoon();
    drawBlockMap();
  });
  const load = latestOnly(loadStep);
  watch(["step"], () => load(view.step));
  watch(["run"], describeRun);
  watch(["step", "shown"], describeWhere);
  watch(["isFollowing"], () => {
    byId("follow").checked = view.isFollowing;
    if (view.isFollowing) goTo(view.run.steps.last);
  });
  await poll();
}

// The run as a whole.

async function poll() {
  try {
    const run = await getRun();
    const isNew = !view.run?.steps.count && run.steps.count;
    change({ run });
    if (isNew) open(run);
    else if (view.isFollowing && run.steps.count) goTo(run.steps.last);
    if (!run.steps.count) tell("no step has been composed yet");
  } catch (error) {
    complain(error);
  }
  if (!view.run || view.run.is_live) setTimeout(poll, document.hidden ? 4 * POLL_MS : POLL_MS);
}

function open(run) {
  const { first, last } = run.steps;
  const asked = Number(new URLSearchParams(location.search).get("step"));
  const follows = run.is_live && !asked;
  const step = asked || (follows ? last : first);
  change({
    from: Math.max(first, Math.min(step - FIRST_VISIBLE / 2, last - FIRST_VISIBLE)),
    until: last,
  });
  change({ until: Math.min(last, view.from + FIRST_VISIBLE), isFollowing: follows });
  goTo(step);
  if (view.step === 0 || !view.shown) loadStep(view.step);
}

function describeRun() {
  const { run } = view;
  const { config } = run;
  byId("run-name").textContent = run.run_id;
  document.title = `${run.run_id} – tokenreel`;
  byId("run-facts").textContent = [
    run.facts.served_model_name,
    run.facts.device,
    `${plural(run.totals.requests, "request")}, ${plural(run.steps.count, "step")} in ${duration(run.span_s)}`,
    `${number(config.num_blocks)} blocks of ${config.block_size}, ${number(config.max_num_batched_tokens)} tokens a step, ${config.scheduling_policy}`,
    run.is_live ? "still running" : run.has_ended ? null : "did not end tidily",
    run.is_same_code ? null : "recorded by other code",
  ]
    .filter(Boolean)
    .join(" · ");
  byId("run-facts").title = run.notes.join("\n");
  byId("follow-field").hidden = !run.is_live;
  byId("step").min = run.steps.first;
  byId("step").max = run.steps.last;
}

// One step.

async function loadStep(step) {
  try {
    const shown = await getStep(step);
    change({ shown });
    endComplaint();
  } catch (error) {
    change({ shown: null });
    complain(error);
  }
}

function describeWhere() {
  const { shown, step } = view;
  if (document.activeElement !== byId("step")) byId("step").value = step;
  // The panels have drawn before this: what they show is this step, or still another.
  byId("panels").setAttribute("aria-busy", String(shown?.step !== step));
  if (shown?.step !== step) return;
  const took = shown.duration_s === null ? "" : `, took ${duration(shown.duration_s)}`;
  byId("where").textContent = `of ${number(view.run.steps.last)} · at ${clock(shown.t_s)}${took}`;
}

function setUpTransport() {
  const moves = {
    first: () => view.run.steps.first,
    previous: () => view.step - 1,
    next: () => view.step + 1,
    last: () => view.run.steps.last,
  };
  for (const [id, target] of Object.entries(moves)) {
    byId(id).addEventListener("click", () => {
      if (!view.run?.steps.count) return;
      change({ isPlaying: false, isFollowing: false });
      goTo(target());
    });
  }
  byId("step").addEventListener("change", (event) => {
    const wanted = Number(event.target.value || NaN);
    if (!Number.isInteger(wanted) || !view.run?.steps.count) return;
    change({ isPlaying: false, isFollowing: false });
    goTo(wanted, { centre: true });
    event.target.value = view.step;
  });
  byId("step").addEventListener("keydown", (event) => {
    // From here on the arrow keys move through the steps again.
    if (event.key === "Enter" || event.key === "Escape")
      byId("lanes-box").focus({ preventScroll: true });
  });
  byId("follow").addEventListener("change", (event) =>
    change({ isFollowing: event.target.checked, isPlaying: false }),
  );
}
