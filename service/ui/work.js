// Collections with their counts, and jobs as they go on: their events where the service streams them, else asked for again and again.
// Rows and cards are made once and then changed in place, so that the focus, what is open and what went wrong stay where they are.

import { events, get, post } from "./api.js";
import { by, el, fill, number, problem, size, when } from "./dom.js";

const FINISHED = new Set(["succeeded", "succeeded_with_failures", "failed", "cancelled"]);
const POLL_MS = 1000;
const NEW_JOBS_MS = 3000;
const JOBS = 30;
const FAILURES = 20;
const COUNTED = ["documents", "pending", "failed", "size"];

let leaving = new AbortController();
const rows = new Map(); // collection -> what changes its row
const cards = new Map(); // job id -> its card

const short = (id) => id.slice(0, 12);

export function bind() {
  by("older").addEventListener("click", older);
}

export async function enter() {
  leave();
  leaving = new AbortController();
  rows.clear();
  cards.clear();
  by("collections").replaceChildren();
  by("jobs").replaceChildren();
  by("older").hidden = true;
  const timer = setInterval(look, NEW_JOBS_MS);
  leaving.signal.addEventListener("abort", () => clearInterval(timer));
  await look();
}

export function leave() {
  leaving.abort();
}

// Each by itself: a key may see collections and no jobs.
const look = () => Promise.all([lookFor("collections", "collections", showCollections), lookFor("jobs", `jobs?limit=${JOBS}`, showJobs)]);

async function lookFor(what, path, show) {
  const place = by(`${what}-trouble`);
  try {
    const found = await get(path, { signal: leaving.signal });
    place.replaceChildren();
    show(found[what]);
  } catch (error) {
    if (error.name === "AbortError" || error.status === 401) return; // the view was left, or the key is asked for
    if (place.textContent !== problem(error).textContent) place.replaceChildren(problem(error));
  }
}

const none = () => el("p", { className: "quiet" }, "There is none yet.");

// --- collections

function showCollections(collections) {
  const names = collections.map(({ name }) => name);
  if (names.join("\n") !== [...rows.keys()].join("\n") || !names.length) {
    rows.clear();
    for (const name of names) rows.set(name, row(name));
    by("collections").replaceChildren(names.length ? table() : none());
  }
  for (const one of collections) rows.get(one.name).update(one);
}

function table() {
  const heads = ["name", ...COUNTED, "model", "made"];
  return el("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Collections" }, el("table", {},
    el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col", className: COUNTED.includes(head) ? "number" : "" }, head)))),
    el("tbody", {}, [...rows.values()].map(({ place }) => place))));
}

function row(name) {
  const counts = COUNTED.map(() => el("td", { className: "number" }));
  const model = el("td", { className: "model" });
  const made = el("td", {});
  return {
    place: el("tr", {}, el("td", {}, el("a", { href: `?collection=${encodeURIComponent(name)}` }, name)), counts, model, made),
    update(one) {
      [number(one.documents), number(one.pending), number(one.failed), size(one.size_bytes)].forEach((count, n) => { counts[n].textContent = count; });
      fill(model, `${one.model}, ${number(one.dimensions)} dimensions `, el("code", { title: one.fingerprint }, short(one.fingerprint)),
        one.compatible ? null : el("b", { className: "bad" }, " its model is not served: start the service with it, or reindex"));
      made.textContent = when(one.created_at);
    },
  };
}

// --- jobs

function showJobs(jobs) {
  if (!jobs.length) by("jobs").replaceChildren(none());
  else if (!cards.size) { by("jobs").replaceChildren(); by("older").hidden = jobs.length < JOBS; }
  for (const job of [...jobs].reverse()) if (!cards.has(job.id)) by("jobs").prepend(begin(job));
}

async function older() {
  try {
    const { jobs } = await get(`jobs?limit=${JOBS}&offset=${cards.size}`);
    const before = by("jobs").lastChild;
    for (const job of jobs) if (!cards.has(job.id)) by("jobs").append(begin(job));
    before.nextSibling?.focus();
    by("older").hidden = jobs.length < JOBS;
  } catch (error) {
    by("jobs-trouble").replaceChildren(problem(error));
  }
}

function begin(job) {
  const made = card(job);
  cards.set(job.id, made);
  made.update(job);
  if (!FINISHED.has(job.state)) follow(made, job.id);
  return made.place;
}

async function follow({ place, update }, id) {
  let last = null;
  const see = (job) => { last = job; update(job); };
  try {
    await events(`jobs/${id}/events`, leaving.signal, see);
  } catch { /* the stream broke: ask */ }
  while (!leaving.signal.aborted && !(last && FINISHED.has(last.state))) {
    try { see(await get(`jobs/${id}`, { signal: leaving.signal })); } catch (error) {
      if (error.status === 404) { place.remove(); return; } // with its collection
    }
    if (!FINISHED.has(last?.state)) await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  if (last && !leaving.signal.aborted) by("work-status").textContent = `${last.kind} → ${last.collection} ${stateOf(last)}: ${counted(last)}.`;
}

const stateOf = (job) => job.state.replaceAll("_", " ");
const counted = (job) => ["accepted", "indexed", "skipped", "failed", "cancelled"].filter((name) => job[name] || name === "accepted").map((name) => `${number(job[name])} ${name}`).join(", ");

const button = (words, onclick) => el("button", { type: "button", className: "small", onclick }, words);

function card({ id, kind, collection, created_at: created, retry_of: before }) {
  const state = el("span", {});
  const progress = el("progress", { ariaLabel: "Progress" });
  const counts = el("div", { className: "quiet" });
  const reason = el("span", {});
  const waiting = el("details", { className: "quiet", hidden: true }, el("summary", {}, "waiting, and tried again by itself"), reason);
  const said = el("div", { ariaLive: "polite" });
  const failures = failuresOf(id);
  const cancel = button("Cancel", () => act(async () => update(await post(`jobs/${id}/cancel`))));
  const retry = button("Retry what failed", () => act(async () => {
    const { job } = await post(`jobs/${id}/retry`);
    said.textContent = cards.has(job.id) ? `Already tried again as job ${short(job.id)}, which ${FINISHED.has(job.state) ? "ended as" : "is"} ${stateOf(job)}.` : `Tried again as job ${short(job.id)}.`;
    await look();
  }));
  const place = el("article", { className: "card job", ariaLabel: `Job ${id}`, tabIndex: -1 },
    el("header", {}, el("h3", {}, `${kind} → ${collection}`), state, el("span", { className: "quiet" }, when(created)), el("code", { className: "quiet" }, short(id)),
      before && el("span", { className: "quiet" }, "of what failed in ", el("code", {}, short(before)))),
    progress, counts, waiting, el("div", { className: "buttons" }, cancel, retry, failures.toggle), said, failures.place);

  async function act(call) {
    said.replaceChildren();
    try { await call(); } catch (error) { said.replaceChildren(problem(error)); }
  }

  // A button that goes away leaves the focus on its card.
  function offer(one, there) {
    if (!there && one === document.activeElement) place.focus();
    one.hidden = !there;
  }

  function update(job) {
    const over = FINISHED.has(job.state);
    state.className = `state ${job.state}`;
    state.textContent = stateOf(job);
    progress.hidden = over;
    progress.max = job.accepted || 1;
    progress.value = job.indexed + job.skipped + job.failed + job.cancelled;
    counts.textContent = counted(job);
    waiting.hidden = over || !job.waiting_on;
    reason.textContent = job.waiting_on ?? "";
    offer(cancel, !over);
    offer(retry, over && job.failed > 0);
    offer(failures.toggle, job.failed > 0);
  }

  return { place, update };
}

// A button that shows and hides them, and their place: a page of the list.
function failuresOf(id) {
  const place = el("div", { hidden: true });
  const toggle = button("Show failures", () => open(place.hidden));
  toggle.ariaExpanded = "false";

  async function open(there) {
    place.hidden = !there;
    toggle.textContent = there ? "Hide failures" : "Show failures";
    toggle.ariaExpanded = String(there);
    if (there) await page(0);
  }

  async function page(offset) {
    try {
      const { failures: found } = await get(`jobs/${id}/failures?limit=${FAILURES + 1}&offset=${offset}`);
      const [before, further] = [button("Before", () => page(offset - FAILURES)), button("Further", () => page(offset + FAILURES))];
      [before.disabled, further.disabled] = [offset === 0, found.length <= FAILURES];
      const inside = place.contains(document.activeElement) && document.activeElement.textContent;
      fill(place, list(found.slice(0, FAILURES)), before.disabled && further.disabled ? null : el("div", { className: "buttons" }, before, further));
      if (inside) [before, further].sort((one) => (one.textContent === inside ? -1 : 1)).find((one) => !one.disabled)?.focus();
    } catch (error) {
      place.replaceChildren(problem(error));
    }
  }

  function list(found) {
    const heads = ["position", "document", "code", "reason"];
    return el("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: `Failures of job ${id}` }, el("table", { className: "failures" },
      el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col", className: head === "position" ? "number" : "" }, head)))),
      el("tbody", {}, found.map((one) => el("tr", {}, el("td", { className: "number" }, number(one.position)), el("td", {}, one.id), el("td", {}, el("code", {}, one.code)), el("td", { className: "reason" }, one.detail))))));
  }

  return { toggle, place };
}
