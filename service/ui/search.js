// The search view. What is asked stands in the address, so that it can be shared; a picture cannot, and the page says so.

import { get, post } from "./api.js";
import { by, el, problem } from "./dom.js";
import { controls } from "./filters.js";
import { card } from "./hits.js";

const PAGE = 24;
const SMALLER_PX = 1600;

const state = { picture: null, like: null, filters: null, collections: [], limits: {}, offset: 0, running: null };

const address = () => new URLSearchParams(location.search);

export async function start(info) {
  state.limits = info.limits || {};
  const form = by("query");
  form.addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  form.addEventListener("keydown", (event) => { if (event.key === "Escape") clear(); });
  by("choose").addEventListener("click", () => by("file").click());
  by("file").addEventListener("change", () => { take(by("file").files[0]); by("file").value = ""; });
  by("no-picture").addEventListener("click", () => { setPicture(null); by("text").focus(); });
  by("collection").addEventListener("change", () => describe());
  by("more").addEventListener("click", () => ask({ further: true }));
  by("explain").addEventListener("change", () => { if (by("hits").children.length) ask(); });
  acceptPictures();
  offerModes();
  await refresh();
  await restore();
}

export async function refresh() {
  const { collections } = await get("collections");
  state.collections = collections;
  const wanted = address().get("collection") || by("collection").value;
  by("collection").replaceChildren(...collections.map(({ name, documents }) => el("option", { value: name }, `${name} (${documents.toLocaleString()})`)));
  if (collections.some(({ name }) => name === wanted)) by("collection").value = wanted;
  by("query").hidden = collections.length === 0;
  if (collections.length === 0) by("hits").replaceChildren(nothingYet());
  else { by("hits").querySelector(".empty")?.remove(); await describe(); }
}

async function restore() {
  if (!state.collections.length) return;
  const asked = address();
  if (asked.get("q")) by("text").value = asked.get("q"); // else what somebody typed meanwhile stays
  if (asked.get("mode")) by("mode").value = asked.get("mode");
  setLike(asked.get("like"));
  if (by("text").value || state.like) await ask({ remembered: asked.get("filter") });
  else if (asked.get("picture")) say("This address was made with a picture, which an address cannot hold: drop it here again.");
}

// Modes are offered where the service has them.
async function offerModes() {
  try {
    const { components } = await get("openapi.json");
    const mode = components.schemas.SearchIn.properties.mode;
    const known = mode && (mode.enum || mode.anyOf?.flatMap((one) => one.enum || []));
    if (!known?.length) return;
    by("mode").append(...known.filter((name) => typeof name === "string").map((name) => el("option", { value: name }, name)));
    by("mode-label").hidden = false;
    if (address().get("mode")) by("mode").value = address().get("mode");
  } catch { /* the page works without */ }
}

async function describe() {
  const chosen = by("collection").value;
  const collection = await get(`collections/${encodeURIComponent(chosen)}`).catch(() => ({}));
  state.filters = controls(collection.indexes, () => {});
  by("filters").querySelector(".filters").replaceChildren(...state.filters.elements);
  by("filters").hidden = state.filters.elements.length === 0;
}

function nothingYet() {
  const here = new URL(".", location.href).href.replace(/\/$/, "");
  return el("li", { className: "card empty" }, el("h2", {}, "There is nothing to search yet"),
    el("p", {}, "Load documents of your own, one line of JSON each, with an image beside or without:"),
    el("pre", {}, `ret2 load documents.jsonl --collection shop --url ${here}`),
    el("p", {}, "or, without the command line:"),
    el("pre", {}, `curl -X PUT ${here}/collections/shop -H 'content-type: application/json' -d '{}'\n` +
      `curl ${here}/collections/shop/documents -H 'content-type: application/json' \\\n  -d '[{"id": "1", "text": "a running shoe", "metadata": {"brand": "Ada"}}]'`),
    el("button", { type: "button", onclick: () => refresh() }, "Look again"));
}

// --- the picture

function acceptPictures() {
  const files = (transfer) => [...(transfer?.items || [])].some((item) => item.kind === "file");
  document.addEventListener("dragover", (event) => { if (files(event.dataTransfer)) { event.preventDefault(); document.body.classList.add("dropping"); } });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
  document.addEventListener("drop", (event) => {
    document.body.classList.remove("dropping");
    const file = event.dataTransfer?.files[0];
    if (file) { event.preventDefault(); take(file); }
  });
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files || [])].find((one) => one.type.startsWith("image/"));
    if (file && !by("search").hidden) { event.preventDefault(); take(file); }
  });
}

async function take(file) {
  if (!file) return;
  by("trouble").replaceChildren();
  const limit = state.limits.max_image_bytes || Infinity;
  let note = "";
  try {
    if (file.size > limit) {
      file = await smaller(file);
      note = `The picture is larger than the service takes (${(limit / 2 ** 20).toFixed(0)} MiB) and was made smaller here. `;
    }
    setPicture(await dataUri(file));
    setLike(null);
    await ask({ note });
  } catch (error) {
    by("trouble").replaceChildren(problem({ title: "The picture cannot be read", message: error.message || String(error) }));
  }
}

const dataUri = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result.replace(/^data:(?=;|,)/, "data:application/octet-stream"));
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(file);
});

async function smaller(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, SMALLER_PX / Math.max(bitmap.width, bitmap.height));
  const canvas = el("canvas", { width: Math.round(bitmap.width * scale), height: Math.round(bitmap.height * scale) });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9));
}

function setPicture(uri) {
  state.picture = uri;
  by("picture").hidden = !uri;
  const image = by("picture").querySelector("img");
  if (uri) image.src = uri;
  else image.removeAttribute("src");
}

function setLike(id) {
  state.like = id || null;
  by("like").hidden = !id;
  by("like").replaceChildren();
  if (id) by("like").append(`More like ${id}`, el("button", { type: "button", className: "small", ariaLabel: "No longer like this document", onclick: () => { setLike(null); by("text").focus(); } }, "×"));
}

function clear() {
  by("text").value = "";
  setPicture(null);
  setLike(null);
  by("hits").replaceChildren();
  by("trouble").replaceChildren();
  by("more").hidden = true;
  say("");
  history.replaceState(null, "", `?collection=${encodeURIComponent(by("collection").value)}`);
}

// --- asking

function query() {
  if (state.like) return { document_id: state.like };
  const text = by("text").value.trim();
  return { ...(text ? { text } : {}), ...(state.picture ? { image: state.picture } : {}) };
}

async function ask({ further = false, note = "", remembered = null } = {}) {
  if (by("text").value.trim() && state.like && !further) setLike(null);
  const asked = query();
  if (!Object.keys(asked).length) { say("Type something, or drop a picture."); by("text").focus(); return; }
  state.running?.abort();
  const running = (state.running = new AbortController());
  if (!further) state.offset = 0;
  const filter = (remembered && JSON.parse(remembered)) || state.filters?.filter();
  const mode = by("mode").value;
  const body = { collection: by("collection").value, query: asked, limit: PAGE, ...(state.offset ? { offset: state.offset } : {}),
    ...(filter ? { filter } : {}), ...(mode ? { mode } : {}), ...(by("explain").checked ? { explain: true } : {}) };
  remember(body);
  by("trouble").replaceChildren();
  say("Searching…");
  const began = performance.now();
  try {
    const found = await post("search", body, { signal: running.signal });
    show(found, further, performance.now() - began, note);
  } catch (error) {
    if (error.name === "AbortError") return;
    say("");
    if (!further) by("hits").replaceChildren();
    by("more").hidden = true;
    by("trouble").replaceChildren(problem(error));
  }
}

function show({ hits, timings }, further, roundTrip, note) {
  const cards = hits.map((hit) => card(hit, moreLike));
  if (further) by("hits").append(...cards);
  else by("hits").replaceChildren(...cards);
  state.offset += hits.length;
  by("more").hidden = hits.length < PAGE;
  const t = timings;
  const rest = Math.max(0, roundTrip - t.total_ms);
  const split = `${t.total_ms.toFixed(0)} ms: preparing ${t.decode_ms.toFixed(0)}, queue ${t.queue_ms.toFixed(0)}, model ${t.encode_ms.toFixed(0)}, index ${t.store_ms.toFixed(0)}; network ${rest.toFixed(0)}`;
  const count = by("hits").children.length;
  const shared = state.picture ? " The address holds your words but not the picture." : "";
  say(count ? `${note}${count} hits. ${split}.${shared}` : `${note}Nothing was found. ${split}.`);
}

function moreLike(hit) {
  by("text").value = "";
  setPicture(null);
  setLike(hit.id);
  scrollTo({ top: 0 });
  ask();
  by("text").focus();
}

function remember({ collection, query: asked, filter, mode }) {
  const to = new URLSearchParams({ collection });
  if (asked.text) to.set("q", asked.text);
  if (asked.document_id) to.set("like", asked.document_id);
  if (asked.image) to.set("picture", "yes");
  if (filter) to.set("filter", JSON.stringify(filter));
  if (mode) to.set("mode", mode);
  history.replaceState(null, "", `?${to}`);
}

function say(words) {
  by("status").textContent = words;
}
