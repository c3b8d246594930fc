// Finding a request, and its life once it is found. Everything shown here may come from a client.

import { ApiError, findRequests, getRequest } from "./api.js";
import { byId, element } from "./dom.js";
import { clock, duration, number, plural } from "./format.js";
import { ownerVariable } from "./palette.js";
import { complain } from "./status.js";
import { change, goTo, show, view, watch } from "./view_state.js";

const DELAY_MS = 120;

let pending = null;
let timer = 0;
let active = -1;

export function setUpSearch() {
  const input = byId("search");
  const ask = () => {
    clearTimeout(timer);
    timer = setTimeout(() => find(input.value), DELAY_MS);
  };
  input.addEventListener("input", ask);
  input.addEventListener("focus", ask);
  input.addEventListener("keydown", onKey);
  input.addEventListener("blur", () => setTimeout(close, 150));
  watch(["highlight", "run"], drawLife);
}

export async function toggleHighlight(id) {
  if (view.highlight?.id === id) return change({ highlight: null });
  await highlight(id);
}

async function highlight(id) {
  try {
    change({ highlight: await getRequest(id) });
  } catch (error) {
    complain(error);
  }
}

async function find(text) {
  pending?.abort();
  pending = new AbortController();
  try {
    list(await findRequests(text, pending.signal));
  } catch (error) {
    if (error.name === "AbortError") return;
    list({
      requests: [],
      total: 0,
      note: error instanceof ApiError ? error.message : String(error),
    });
  }
}

function list({ requests, total, note }) {
  const found = byId("found");
  active = requests.length ? 0 : -1;
  found.replaceChildren(...requests.map(option));
  if (!requests.length) {
    found.append(element("li", { class: "nothing" }, note ?? "no such request"));
  } else if (total > requests.length) {
    found.append(
      element("li", { class: "nothing" }, `and ${number(total - requests.length)} more`),
    );
  }
  const isOpen = document.activeElement === byId("search");
  found.hidden = !isOpen;
  byId("search").setAttribute("aria-expanded", String(isOpen));
  mark();
}

function option(request, index) {
  const about = [
    `${number(request.prompt)} + ${number(request.outputs)} tokens`,
    request.reason ?? "not finished",
    request.preemptions ? `preempted ${request.preemptions}×` : null,
    request.cached ? `${number(request.cached)} cached` : null,
    request.ttft_s === null ? null : `first token after ${duration(request.ttft_s)}`,
  ];
  return element(
    "li",
    {
      role: "option",
      id: `found-${index}`,
      "data-request": request.id,
      onpointerdown: (event) => {
        event.preventDefault();
        choose(request.id);
      },
    },
    element("span", { class: "id" }, request.id),
    element("span", { class: "about" }, about.filter(Boolean).join(", ")),
  );
}

function onKey(event) {
  const options = [...byId("found").querySelectorAll("[role=option]")];
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    const move = event.key === "ArrowDown" ? 1 : -1;
    if (options.length) active = (active + move + options.length) % options.length;
    mark();
  } else if (event.key === "Enter") {
    const chosen = options[active];
    if (chosen) choose(chosen.dataset.request);
  } else if (event.key === "Escape") {
    close();
    event.target.blur();
  }
}

function mark() {
  [...byId("found").querySelectorAll("[role=option]")].forEach((each, index) => {
    each.setAttribute("aria-selected", String(index === active));
    if (index === active) each.scrollIntoView({ block: "nearest" });
  });
  if (active >= 0) byId("search").setAttribute("aria-activedescendant", `found-${active}`);
  else byId("search").removeAttribute("aria-activedescendant");
}

function close() {
  byId("found").hidden = true;
  byId("search").setAttribute("aria-expanded", "false");
}

async function choose(id) {
  close();
  byId("search").blur();
  await highlight(id);
  const spans = view.highlight?.spans ?? [];
  if (view.highlight?.id !== id || !spans.length) return;
  const from = spans[0][1];
  const until = spans.at(-1)[2];
  if (view.step < from || view.step > until) {
    change({ isFollowing: false, isPlaying: false });
    goTo(from);
  }
  const margin = Math.max(10, Math.round((until - from) * 0.15));
  show(from - margin, until - from + 2 * margin);
}

function drawLife() {
  const life = byId("life");
  const request = view.highlight;
  life.hidden = !request;
  if (!request) return life.replaceChildren();
  const about = [
    `arrived ${clock(request.admitted_s)}`,
    request.ttft_s === null ? "no token yet" : `first token after ${duration(request.ttft_s)}`,
    request.total_s === null
      ? "not finished"
      : `ended (${request.reason}) after ${duration(request.total_s)}`,
    `${plural(request.prompt, "prompt token")} (${number(request.cached)} cached), ${plural(request.outputs, "output")}`,
    request.preemptions ? `preempted ${request.preemptions}×` : null,
    request.seqs.length > 1 ? `${request.seqs.length} sequences` : null,
    request.priority ? `priority ${request.priority}` : null,
    request.note,
  ];
  life.replaceChildren(
    element(
      "div",
      {},
      element(
        "div",
        { class: "life-head" },
        element(
          "h2",
          {},
          element(
            "span",
            { class: "name", "--dot": ownerVariable(request.seqs[0] ?? 0) },
            element("span", { class: "dot" }),
            request.id,
          ),
        ),
        element("span", { class: "about" }, about.filter(Boolean).join(" · ")),
        element("button", { type: "button", onclick: () => change({ highlight: null }) }, "Clear"),
      ),
      request.stop.length
        ? element(
            "p",
            { class: "texts" },
            "stop strings: ",
            ...request.stop.flatMap((text) => [element("code", {}, text), " "]),
          )
        : null,
      request.error
        ? element("p", { class: "texts" }, "error: ", element("code", {}, request.error))
        : null,
    ),
  );
}
