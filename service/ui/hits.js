// A hit as a card: picture, text, metadata, score, and why it is there.

import { picture } from "./api.js";
import { el } from "./dom.js";

const percent = (share) => `${Math.round(share * 100)}%`;

function bars(name, shares) {
  if (!shares) return [];
  const each = shares.layers.map(({ layer, text, image }) => {
    const parts = [["of-text", text], ["of-image", image]].map(([kind, share]) => {
      const part = el("span", { className: kind });
      part.style.width = percent(share);
      return part;
    });
    return el("div", { className: "bar", role: "img", ariaLabel: `${name}, layer ${layer + 1}: text ${percent(text)}, image ${percent(image)}` }, parts);
  });
  return [el("span", {}, name), el("div", {}, each)];
}

function why(explanation, score) {
  if (!explanation) return null;
  const { query, document, without_text: noText, without_image: noImage, lexical } = explanation;
  const lines = [];
  if (noText !== null && noText !== undefined) lines.push(`without your words ${noText.toFixed(3)}`);
  if (noImage !== null && noImage !== undefined) lines.push(`without your picture ${noImage.toFixed(3)}`);
  if (lexical) lines.push(`words ${lexical.score.toFixed(2)}, ${percent(lexical.share)} of the score`);
  const drawn = [...bars("query", query), ...bars("document", document)];
  if (!drawn.length && !lines.length) return null;
  return el("details", { className: "why", open: true }, el("summary", {}, "Why"),
    drawn.length ? el("div", { className: "legend" }, el("span", { className: "t" }, "text"), el("span", { className: "i" }, "image"), "by layer, early to late") : null,
    drawn.length ? el("div", { className: "bars" }, drawn) : null,
    lines.length ? el("div", {}, `similarity ${(explanation.similarity ?? score).toFixed(3)}; ${lines.join("; ")}`) : null);
}

const plain = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));

export function card(hit, more) {
  const metadata = Object.entries(hit.metadata || {}).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, plain(value))]);
  let shown = null;
  if (hit.image_url) {
    const image = el("img", { alt: hit.text ? "" : `Picture of ${hit.id}`, loading: "lazy" });
    image.addEventListener("error", () => shown.replaceChildren(el("span", { className: "quiet" }, "the picture is not there")));
    picture(hit.image_url).then((source) => { image.src = source; }, () => image.dispatchEvent(new Event("error")));
    shown = el("div", { className: "shown" }, image);
  }
  return el("li", { className: "hit" }, shown, el("div", { className: "body" },
    el("h2", {}, el("span", { className: "id" }, hit.id), el("span", { className: "score", title: "score" }, hit.score.toFixed(3))),
    hit.text ? el("p", {}, hit.text) : null,
    metadata.length ? el("dl", {}, metadata) : null,
    why(hit.explanation, hit.score),
    el("div", { className: "foot" }, el("button", { type: "button", className: "small", onclick: () => more(hit), ariaLabel: `More like ${hit.id}` }, "More like this"))));
}
