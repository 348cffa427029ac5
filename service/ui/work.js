// Collections with their counts, and jobs as they go on: their events where the service streams them, else asked for again and again.

import { events, get, post } from "./api.js";
import { by, el, fill, number, problem, when } from "./dom.js";

const FINISHED = new Set(["succeeded", "succeeded_with_failures", "failed", "cancelled"]);
const POLL_MS = 1000;
const NEW_JOBS_MS = 3000;
const FAILURES = 20;

let leaving = new AbortController();
const shown = new Map(); // job id -> its element

export async function enter() {
  leaving = new AbortController();
  shown.clear();
  by("jobs").replaceChildren();
  await look();
  const timer = setInterval(look, NEW_JOBS_MS);
  leaving.signal.addEventListener("abort", () => clearInterval(timer));
}

export function leave() {
  leaving.abort();
}

async function look() {
  try {
    const [{ collections }, { jobs }] = await Promise.all([get("collections"), get("jobs?limit=30")]);
    by("work-trouble").replaceChildren();
    by("collections").replaceChildren(collections.length ? table(collections) : el("p", { className: "quiet" }, "There is none yet."));
    if (!jobs.length) by("jobs").replaceChildren(el("p", { className: "quiet" }, "There is none yet."));
    else if (!shown.size) by("jobs").replaceChildren();
    for (const job of [...jobs].reverse()) if (!shown.has(job.id)) begin(job);
  } catch (error) {
    by("work-trouble").replaceChildren(problem(error));
  }
}

function table(collections) {
  const rows = collections.map((one) => el("tr", {},
    el("td", {}, el("a", { href: `?collection=${encodeURIComponent(one.name)}` }, one.name)),
    el("td", { className: "number" }, number(one.documents)),
    el("td", {}, one.model, one.compatible === false ? el("b", {}, " (another model than the one that runs)") : null),
    el("td", {}, el("code", { title: one.fingerprint }, one.fingerprint.slice(0, 12))),
    el("td", { className: "number" }, number(one.dimensions)),
    el("td", {}, when(one.created_at))));
  const heads = ["name", "documents", "model", "fingerprint", "dimensions", "made"];
  return el("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Collections" }, el("table", {},
    el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col", className: ["documents", "dimensions"].includes(head) ? "number" : "" }, head)))),
    el("tbody", {}, rows)));
}

function begin(job) {
  const place = el("article", { className: "card job", ariaLabel: `Job ${job.id}` });
  shown.set(job.id, place);
  by("jobs").prepend(place);
  draw(place, job);
  if (!FINISHED.has(job.state)) follow(place, job.id);
}

async function follow(place, id) {
  let last = null;
  const see = (job) => { last = job.job || job; draw(place, last); };
  try {
    await events(`jobs/${id}/events`, leaving.signal, see);
  } catch { /* this service has no events, or the stream broke: ask */ }
  while (!leaving.signal.aborted && !(last && FINISHED.has(last.state))) {
    await get(`jobs/${id}`).then(see, () => {});
    if (!FINISHED.has(last?.state)) await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

function draw(place, job) {
  const done = job.indexed + job.skipped + job.failed + (job.cancelled || 0);
  const counts = [["accepted", job.accepted], ["indexed", job.indexed], ["skipped", job.skipped], ["failed", job.failed], ["cancelled", job.cancelled]]
    .filter(([name, count]) => count || name === "accepted").map(([name, count]) => `${number(count)} ${name}`).join(", ");
  const over = FINISHED.has(job.state);
  const trouble = el("div", {});
  const list = el("div", {});
  const act = (name) => el("button", { type: "button", className: "small", onclick: async () => {
    trouble.replaceChildren();
    try { await post(`jobs/${job.id}/${name}`); await look(); if (name === "cancel") draw(place, await get(`jobs/${job.id}`)); }
    catch (error) { trouble.replaceChildren(problem(error)); }
  } }, name === "cancel" ? "Cancel" : "Retry what failed");
  const open = place.querySelector("[data-failures]");
  fill(place,
    el("header", {}, el("h3", {}, `${job.kind} → ${job.collection}`), el("span", { className: `state ${job.state}` }, job.state.replaceAll("_", " ")),
      el("span", { className: "quiet" }, when(job.created_at)), el("code", { className: "quiet" }, job.id.slice(0, 12))),
    over ? null : el("progress", { max: job.accepted || 1, value: done, ariaLabel: "Progress" }),
    el("div", { className: "quiet" }, counts, job.waiting_on && !over ? `; waiting: ${job.waiting_on}` : ""),
    el("div", { className: "buttons" }, over ? null : act("cancel"), over && job.failed ? act("retry") : null,
      job.failed ? el("button", { type: "button", className: "small", onclick: () => failures(job, list, 0) }, "Show failures") : null),
    trouble, list);
  if (open && job.failed) failures(job, list, 0);
}

async function failures(job, list, offset) {
  try {
    const { failures: found } = await get(`jobs/${job.id}/failures?limit=${FAILURES}&offset=${offset}`);
    const heads = ["position", "document", "code", "reason"];
    list.dataset.failures = "shown";
    fill(list,
      el("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: `Failures of job ${job.id}` }, el("table", {},
        el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))),
        el("tbody", {}, found.map((one) => el("tr", {}, el("td", { className: "number" }, number(one.position)), el("td", {}, one.id), el("td", {}, one.code), el("td", {}, one.detail)))))),
      el("div", { className: "buttons" },
        offset ? el("button", { type: "button", className: "small", onclick: () => failures(job, list, Math.max(0, offset - FAILURES)) }, "Before") : null,
        found.length === FAILURES ? el("button", { type: "button", className: "small", onclick: () => failures(job, list, offset + FAILURES) }, "Further") : null));
  } catch (error) {
    list.replaceChildren(problem(error));
  }
}
