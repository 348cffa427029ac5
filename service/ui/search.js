// The search view. What is asked stands in the address, so that it can be shared; a picture cannot, and the page says so.

import { get, key, post } from "./api.js";
import { by, el, problem } from "./dom.js";
import { controls, together } from "./filters.js";
import { card, thumbnail } from "./hits.js";

const PAGE = 24;
const EXAMPLES = 8;
const SMALLER_PX = 1600;
const WIDE = matchMedia("(min-width: 45rem)");

// `asked` is the body of the search whose hits are shown, which More continues at `cursor` whatever the controls say by then;
// `beside` is a filter of the address that no control can show; `pictures` are those of earlier addresses, which Back leads to.
const state = { picture: null, like: null, filters: controls(), beside: null, pictures: new Map(), collections: [], limits: {}, asked: null, cursor: null, running: null };

const address = () => new URLSearchParams(location.search);
const chosen = () => by("collection").value;
const collection = () => state.collections.find(({ name, aliases }) => name === chosen() || aliases.includes(chosen()));
const again = () => (state.asked ? ask() : offer());

// Once; `enter` may be called again, as after a key was entered.
export function bind() {
  by("query").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  by("text").addEventListener("keydown", (event) => { if (event.key === "Escape") clear(); });
  by("choose").addEventListener("click", () => by("file").click());
  by("file").addEventListener("change", () => { take(by("file").files[0]); by("file").value = ""; });
  by("no-picture").addEventListener("click", () => { setPicture(null); by("text").focus(); });
  by("collection").addEventListener("change", change);
  by("more").addEventListener("click", () => send({ ...state.asked, cursor: state.cursor }, { further: true }));
  for (const control of ["mode", "explain"]) by(control).addEventListener("change", again);
  addEventListener("popstate", () => { if (asking()) { by("text").value = ""; setPicture(state.pictures.get(history.state)); restore(); } });
  setPicture(null);
  acceptPictures();
}

export async function enter(info) {
  state.limits = info.limits || {};
  ({ collections: state.collections } = await get("collections"));
  by("query").hidden = state.collections.length === 0;
  by("start").replaceChildren();
  if (state.collections.length === 0) by("start").append(howToLoad("There is nothing to search yet", "shop"));
  else await restore();
}

// What the address asks for stands in the controls as it is, also what is not there: the service says so, and nothing else is searched.
async function restore() {
  reset();
  const asked = address();
  const names = state.collections.flatMap(({ name, documents, aliases }) => [[name, `${name} (${documents.toLocaleString()})`], ...aliases.map((alias) => [alias, `${alias} → ${name}`])]);
  by("collection").replaceChildren(...names.map(([value, shown]) => el("option", { value }, shown)));
  choose(by("collection"), asked.get("collection"));
  choose(by("mode"), asked.get("mode") ?? "fused");
  let filter;
  try { filter = JSON.parse(asked.get("filter")) ?? undefined; } catch (error) {
    describe();
    trouble({ title: "The filter in the address is not JSON", message: `${error.message}. Nothing was searched.` });
    return;
  }
  describe(filter);
  if (asked.get("q")) by("text").value = asked.get("q"); // else what somebody typed meanwhile stays
  setLike(asked.get("like"));
  if (!collection()) trouble({ title: "No such collection", message: `“${chosen()}” is not among those that this page may see. Choose another.` });
  else {
    const note = asked.get("picture") && !state.picture ? "This address was made with a picture, which an address cannot hold: drop it here again. " : "";
    if (by("text").value || state.like || state.picture) await ask({ note, restored: true });
    else { say(note); await offer(); }
  }
}

function choose(select, value) {
  if (!value) return;
  if (![...select.options].some((option) => option.value === value)) select.append(el("option", { value }, `${value} (not there)`));
  select.value = value;
}

// Controls as the chosen collection has them.
function describe(filter) {
  const found = collection();
  state.filters = controls(found?.indexes, again);
  by("filters").querySelector(".filters").replaceChildren(...state.filters.elements);
  by("filters").hidden = state.filters.elements.length === 0;
  by("filters").open = WIDE.matches || filter !== undefined;
  setBeside(state.filters.set(filter));
}

function change() {
  reset();
  setLike(null); // of the collection before
  describe();
  if (Object.keys(query()).length) ask();
  else begun();
}

// --- what to begin with

// A few documents to be liked: the nearest to the collection's own name, of different values of its first keyword field if it has one.
async function offer() {
  const { name, documents, indexes } = collection() ?? {};
  if (!name) return;
  if (!documents) { by("start").replaceChildren(howToLoad(`${name} holds nothing yet`, name)); return; }
  const field = Object.keys(indexes).find((one) => indexes[one] === "keyword");
  const filter = together(state.beside, state.filters.filter());
  const running = begin();
  try {
    const found = await post("search", { collection: name, query: { text: name }, limit: EXAMPLES, ...(field ? { group_by: field } : {}), ...(filter ? { filter } : {}) }, { signal: running.signal });
    const hits = found.groups ? found.groups.map((group) => group.hits[0]) : found.hits;
    if (!hits.length) { by("start").replaceChildren(nowhere({ filter })); return; }
    by("start").replaceChildren(el("h2", {}, `Some of what ${name} holds`),
      el("p", { className: "quiet" }, "Choose one to find more like it, or ask. A picture may be dropped anywhere on this page, or pasted, alone or with a question about it."),
      el("ul", { className: "examples" }, hits.map((hit) => el("li", {}, el("button", { type: "button", onclick: () => moreLike(hit), ariaLabel: `More like ${hit.id}` },
        thumbnail(hit), el("span", {}, hit.text || hit.id))))));
  } catch (error) {
    if (error.name !== "AbortError" && error.status !== 401) trouble(error);
  }
}

function howToLoad(title, name) {
  const here = new URL(".", location.href).href.replace(/\/$/, "");
  const exported = key.value ? "export RET2_API_KEY=…\n" : "";
  const header = key.value ? ' \\\n  -H "X-API-Key: $RET2_API_KEY"' : "";
  return el("div", { className: "card empty" }, el("h2", {}, title),
    el("p", {}, "Load documents of your own, one line of JSON each, with an image beside or without:"),
    el("pre", { tabIndex: 0 }, `${exported}ret2 load documents.jsonl --collection ${name} --url ${here}`),
    el("p", {}, "or, without the command line:"),
    el("pre", { tabIndex: 0 }, `${exported}curl -X PUT ${here}/collections/${name}${header} \\\n  -H 'content-type: application/json' -d '{}'\n` +
      `curl ${here}/collections/${name}/documents${header} \\\n  -H 'content-type: application/json' \\\n  -d '[{"id": "1", "text": "a running shoe", "metadata": {"brand": "Ada"}}]'`),
    el("button", { type: "button", onclick: () => enter(state).catch(trouble) }, "Look again"));
}

// --- the picture

const asking = () => !by("search").hidden && !by("query").hidden;

function acceptPictures() {
  const files = (transfer) => [...(transfer?.items || [])].some((item) => item.kind === "file");
  document.addEventListener("dragover", (event) => { if (files(event.dataTransfer)) { event.preventDefault(); document.body.classList.toggle("dropping", asking()); } });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
  document.addEventListener("drop", (event) => {
    document.body.classList.remove("dropping");
    const file = event.dataTransfer?.files[0];
    if (file) { event.preventDefault(); if (asking()) take(file); }
  });
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files || [])].find((one) => one.type.startsWith("image/"));
    if (file && asking()) { event.preventDefault(); take(file); }
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
    trouble({ title: "The picture cannot be read", message: error.message || String(error) });
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
  state.picture = uri ?? null;
  by("picture").hidden = !uri;
  by("text").placeholder = uri ? "Ask about the picture" : "Ask, describe, or drop a picture";
  const image = by("picture").querySelector("img");
  if (uri) image.src = uri;
  else image.removeAttribute("src");
}

// --- asking

function chip(place, words, label, removed) {
  place.hidden = !words;
  place.replaceChildren(...(words ? [words, el("button", { type: "button", className: "small", ariaLabel: label, onclick: () => { removed(); by("text").focus(); } }, "×")] : []));
}

function setLike(id) {
  state.like = id || null;
  chip(by("like"), id && `More like ${id}`, "No longer like this document", () => setLike(null));
}

function setBeside(filter) {
  state.beside = filter ?? null;
  chip(by("beside"), filter && `Filter from the address: ${JSON.stringify(filter)}`, "Without the filter from the address", () => { setBeside(null); again(); });
}

function query() {
  if (state.like) return { document_id: state.like };
  const text = by("text").value.trim();
  return { ...(text ? { text } : {}), ...(state.picture ? { image: state.picture } : {}) };
}

async function ask({ note = "", restored = false } = {}) {
  if (by("text").value.trim() && state.like) setLike(null);
  const asked = query();
  if (!Object.keys(asked).length) { clear(); say("Type something, or drop a picture."); by("text").focus(); return; }
  const filter = together(state.beside, state.filters.filter());
  const mode = by("mode").value;
  state.asked = { collection: chosen(), query: asked, limit: PAGE, ...(filter ? { filter } : {}), ...(mode === "fused" ? {} : { mode }), ...(by("explain").checked ? { explain: true } : {}) };
  remember(state.asked, restored);
  await send(state.asked, { note });
}

// Of the searches of this page one runs at most: the one before is given up.
function begin() {
  state.running?.abort();
  return (state.running = new AbortController());
}

async function send(body, { further = false, note = "" }) {
  const running = begin();
  by("trouble").replaceChildren();
  by("start").replaceChildren();
  say("Searching…");
  const began = performance.now();
  try {
    const found = await post("search", body, { signal: running.signal });
    show(found, further, performance.now() - began, note);
  } catch (error) {
    if (error.name === "AbortError") return;
    say("");
    if (!further) nothing();
    if (error.fields?.includes("image")) setPicture(null); // the next search is without it
    if (error.status !== 401) trouble(error);
  }
}

function show({ hits, cursor, timings: t }, further, roundTrip, note) {
  const cards = hits.map((hit) => card(hit, moreLike));
  if (further) { by("hits").append(...cards); cards[0]?.querySelector(".foot button").focus(); } // More may go
  else by("hits").replaceChildren(...cards);
  state.cursor = cursor;
  by("more").hidden = !cursor;
  by("legend").hidden = !by("hits").querySelector(".bars");
  const rest = Math.max(0, roundTrip - t.total_ms);
  const split = `${t.total_ms.toFixed(0)} ms: preparing ${t.decode_ms.toFixed(0)}, queue ${t.queue_ms.toFixed(0)}, model ${t.encode_ms.toFixed(0)}, index ${t.store_ms.toFixed(0)}; network ${rest.toFixed(0)}`;
  const count = by("hits").children.length;
  const shared = state.picture ? " The address does not hold the picture." : "";
  say(count ? `${note}${cursor ? "The first " : ""}${count} hit${count > 1 ? "s" : ""}. ${split}.${shared}` : `${note}Nothing was found. ${split}.`);
  if (!count) by("start").replaceChildren(nowhere(state.asked));
}

// Why nothing was found, as far as the page knows, and the way out.
function nowhere({ filter, mode }) {
  const { name, documents } = collection() ?? {};
  if (documents === 0) return howToLoad(`${name} holds nothing yet`, name);
  const wanted = [filter && "meets the filter", mode === "lexical" && "has a word of the question"].filter(Boolean).join(" and ") || "is there";
  return el("div", { className: "card empty" }, el("h2", {}, `No ${state.like ? "other " : ""}document of ${name} ${wanted}`),
    filter && el("button", { type: "button", onclick: () => { setBeside(state.filters.set()); again(); by("text").focus(); } }, "Search without the filter"));
}

function nothing() {
  by("hits").replaceChildren();
  by("more").hidden = by("legend").hidden = true;
}

// As before the first search, but for what the controls say.
function reset() {
  state.running?.abort();
  state.asked = state.cursor = null;
  nothing();
  by("trouble").replaceChildren();
  by("start").replaceChildren();
  say("");
}

function clear() {
  by("text").value = "";
  setPicture(null);
  setLike(null);
  setBeside(state.filters.set());
  reset();
  begun();
}

function begun() {
  go({ collection: chosen() });
  offer();
}

function moreLike(hit) {
  by("text").value = "";
  setPicture(null);
  setLike(hit.id);
  scrollTo({ top: 0 });
  ask();
  by("text").focus();
}

function remember({ collection: name, query: asked, filter, mode }, restored) {
  go({
    collection: name, ...(asked.text ? { q: asked.text } : {}), ...(asked.document_id ? { like: asked.document_id } : {}),
    ...(asked.image ? { picture: "yes" } : {}), ...(filter ? { filter: JSON.stringify(filter) } : {}), ...(mode ? { mode } : {}),
  }, restored);
}

// Another search is another address, which Back leaves for the one before.
function go(parts, restored = false) {
  const to = `?${new URLSearchParams(parts)}`;
  if (restored) history.replaceState(history.state, "", to);
  else if (to !== location.search || state.picture !== (state.pictures.get(history.state) ?? null)) history.pushState(Date.now(), "", to);
  state.pictures.set(history.state, state.picture);
}

function trouble(error) {
  by("trouble").replaceChildren(problem(error));
}

function say(words) {
  by("status").textContent = words;
}
