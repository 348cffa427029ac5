// A hit as a card: picture, text, metadata, score, and why it is there.

import { picture } from "./api.js";
import { el } from "./dom.js";

const LONG = 220; // characters: about five lines of a card

const percent = (share) => `${Math.round(share * 100)}%`;

// One bar for each layer, early to late.
function bars(name, shares) {
  if (!shares) return [];
  const each = shares.layers.map(({ layer, text, image }) => {
    const parts = [["of-text", text], ["of-image", image]].map(([kind, share]) => {
      const part = el("span", { className: kind });
      part.style.width = percent(share);
      return part;
    });
    const said = `${name}, layer ${layer + 1}: text ${percent(text)}, image ${percent(image)}`;
    return el("div", { className: "bar", role: "img", ariaLabel: said, title: said }, parts);
  });
  return [el("span", {}, name), el("div", { className: "layers" }, each)];
}

function why(explanation) {
  if (!explanation) return null;
  const { query, document, similarity, without_text: noText, without_image: noImage, lexical } = explanation;
  const lines = [
    noText != null && `without your words ${noText.toFixed(3)}`,
    noImage != null && `without your picture ${noImage.toFixed(3)}`,
    lexical && similarity != null && `similarity ${similarity.toFixed(3)}`,
    lexical && `BM25 of the words ${lexical.score.toPrecision(3)}, ${percent(lexical.share)} of the score`,
  ].filter(Boolean);
  const drawn = [...bars("query", query), ...bars("document", document)];
  if (!drawn.length && !lines.length) return null;
  return el("div", { className: "why" }, drawn.length ? el("div", { className: "bars" }, drawn) : null, lines.length ? el("div", {}, lines.join(" · ")) : null);
}

// The picture of a document, small; null for one that has none.
export function thumbnail(hit) {
  const address = small(hit);
  return address ? framed(address, hit.text ? "" : `Picture of ${hit.id}`) : null;
}

// Of several pictures the one that the hit was found by.
function small({ part, thumbnail_url: first }) {
  return part && part.image_url ? `${part.image_url}&width=256` : first;
}

function framed(address, alt) {
  const image = el("img", { alt, loading: "lazy" });
  const shown = el("div", { className: "shown" }, image);
  const absent = () => shown.replaceChildren(el("span", { className: "quiet" }, "the picture is not there"));
  image.addEventListener("error", absent);
  image.addEventListener("load", () => URL.revokeObjectURL(image.src)); // where it was fetched with a key
  picture(address).then((source) => { image.src = source; }, absent);
  return shown;
}

// The picture as large as the window, over the page; Escape, the button and a click beside it close it.
function enlarge(hit) {
  const address = small(hit).replace("width=256", "width=1024");
  const close = el("button", { type: "button", onclick: () => dialog.close() }, "Close");
  const dialog = el("dialog", { className: "large", ariaLabel: `Picture of ${hit.id}`, onclick: ({ target }) => { if (target === dialog) dialog.close(); } },
    framed(address, `Picture of ${hit.id}`), el("footer", {}, el("span", {}, hit.id), close));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

function pictured(hit) {
  const shown = thumbnail(hit);
  return shown && el("button", { type: "button", className: "enlarge", ariaLabel: `Show the picture of ${hit.id} larger`, onclick: () => enlarge(hit) }, shown);
}

function passage(text) {
  if (!text) return null;
  const words = el("p", {}, text);
  if (text.length <= LONG) return words;
  words.className = "cut";
  return [words, el("button", { type: "button", className: "link", onclick: (event) => { words.className = ""; words.tabIndex = -1; words.focus(); event.target.remove(); } }, "Show all of it")];
}

// Of a long text the passage that the hit was found by, and the whole behind a button.
function bestPassage({ text, part }) {
  if (!part || !part.text || part.text.length === text.length) return passage(text);
  const words = el("p", { className: "part" }, part.text);
  const whole = (event) => { words.textContent = text; words.tabIndex = -1; words.focus(); event.target.remove(); };
  return [words, el("button", { type: "button", className: "link", onclick: whole }, "Show the whole text")];
}

const plain = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));

export function card(hit, more) {
  const metadata = Object.entries(hit.metadata || {}).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, plain(value))));
  return el("li", { className: "hit" }, pictured(hit), el("div", { className: "body" },
    el("h2", {}, el("span", { className: "id" }, hit.id), el("span", { className: "score", title: "score" }, el("span", { className: "unseen" }, "score "), hit.score.toFixed(3))),
    bestPassage(hit),
    metadata.length ? el("dl", {}, metadata) : null,
    why(hit.explanation),
    el("div", { className: "foot" }, el("button", { type: "button", className: "small", onclick: () => more(hit), ariaLabel: `More like ${hit.id}` }, "More like this"))));
}
