// The page: which view is shown, and the key where the service wants one.

import { get, key } from "./api.js";
import { by, problem } from "./dom.js";
import * as search from "./search.js";
import * as work from "./work.js";

const view = () => (new URLSearchParams(location.search).get("view") === "work" ? "work" : "search");

document.addEventListener("key-wanted", ({ detail: refused }) => {
  forget();
  if (refused) by("key-trouble").replaceChildren(problem({ title: "This key is refused", message: "The service does not know it, or no longer does." }));
});

by("key").addEventListener("submit", (event) => {
  event.preventDefault();
  key.value = by("key-value").value;
  by("key-value").value = "";
  by("key").hidden = true;
  open();
});

by("forget").addEventListener("click", forget);

// By hand, so that it is no step for Back to take.
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); by("main").focus(); });

function forget() {
  key.value = "";
  work.leave();
  for (const shown of ["search", "work", "forget"]) by(shown).hidden = true;
  by("key-trouble").replaceChildren();
  by("key").hidden = false;
  by("key-value").focus();
}

async function open() {
  const now = view();
  for (const link of document.querySelectorAll("nav a[data-view]")) {
    if (link.dataset.view === now) link.setAttribute("aria-current", "page");
  }
  document.title = `${now === "search" ? "Search" : "Collections and jobs"} · ret2`;
  by("search").hidden = now !== "search";
  by("work").hidden = now !== "work";
  by("forget").hidden = !key.value;
  const place = by(now === "search" ? "trouble" : "collections-trouble");
  try {
    const info = await get("info");
    by("model").textContent = `${info.models.map(described).join("; ")}; ret2 ${info.version}`;
    place.replaceChildren();
    await (now === "search" ? search.enter(info) : work.enter());
  } catch (error) {
    if (error.status !== 401) place.replaceChildren(problem(error)); // else the key is asked for
  }
}

function described({ name, state, dimensions, detail }) {
  if (state === "loading") return `${name}, being loaded`;
  return state === "ready" ? `${name}, ${dimensions} dimensions` : `${name}, failed: ${detail}`;
}

addEventListener("pagehide", () => work.leave());
addEventListener("pageshow", ({ persisted }) => { if (persisted && !by("work").hidden) work.enter(); });
search.bind();
work.bind();
open();
