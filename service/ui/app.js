// The page: which view is shown, and the key where the service wants one.

import { get, key } from "./api.js";
import { by, problem } from "./dom.js";
import * as search from "./search.js";
import * as work from "./work.js";

const view = () => (new URLSearchParams(location.search).get("view") === "work" ? "work" : "search");

document.addEventListener("key-wanted", () => {
  key.value = "";
  by("key").hidden = false;
  by("key-value").focus();
});

by("key").addEventListener("submit", (event) => {
  event.preventDefault();
  key.value = by("key-value").value;
  by("key-value").value = "";
  by("key").hidden = true;
  open();
});

async function open() {
  const now = view();
  for (const link of document.querySelectorAll("nav a[data-view]")) {
    if (link.dataset.view === now) link.setAttribute("aria-current", "page");
  }
  by("search").hidden = now !== "search";
  by("work").hidden = now !== "work";
  const place = by(now === "search" ? "trouble" : "work-trouble");
  try {
    const info = await get("info");
    by("model").textContent = `${info.model.name}, ${info.model.dimensions} dimensions, version ${info.version}`;
    place.replaceChildren();
    await (now === "search" ? search.start(info) : work.enter());
  } catch (error) {
    if (error.status !== 401) place.replaceChildren(problem(error));
  }
}

addEventListener("pagehide", () => work.leave());
open();
