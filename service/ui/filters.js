// Controls for a collection's declared metadata fields, and the filter they stand for.

import { el } from "./dom.js";

const two = (field, kind, step) => [
  el("input", { type: kind, step, "aria-label": `${field}: from`, placeholder: "from" }),
  el("input", { type: kind, step, "aria-label": `${field}: to`, placeholder: "to" }),
];

const instant = (value, end) => (value ? `${value}T${end ? "23:59:59.999999" : "00:00:00"}Z` : undefined);

function range(field, low, high) {
  const bounds = { ...(low !== undefined ? { gte: low } : {}), ...(high !== undefined ? { lte: high } : {}) };
  return Object.keys(bounds).length ? { field, ...bounds } : null;
}

const value = (input) => (input.value === "" ? undefined : Number(input.value));

// For each type: its inputs, and the condition that they make, or null.
const KINDS = {
  keyword: (field) => {
    const input = el("input", { type: "text", placeholder: "any of, separated by commas" });
    return [[input], () => {
      const words = input.value.split(",").map((word) => word.trim()).filter(Boolean);
      return words.length ? { field, in: words } : null;
    }];
  },
  text: (field) => {
    const input = el("input", { type: "text", placeholder: "every word" });
    return [[input], () => (input.value.trim() ? { field, match: input.value.trim() } : null)];
  },
  number: (field) => {
    const [low, high] = two(field, "number", "any");
    return [[low, high], () => range(field, value(low), value(high))];
  },
  datetime: (field) => {
    const [low, high] = two(field, "date");
    return [[low, high], () => range(field, instant(low.value, false), instant(high.value, true))];
  },
  bool: (field) => {
    const choice = el("select", {}, el("option", { value: "" }, "either"), el("option", { value: "true" }, "yes"), el("option", { value: "false" }, "no"));
    return [[choice], () => (choice.value ? { field, equals: choice.value === "true" } : null)];
  },
  geo: (field) => {
    const [lat, lon, km] = ["latitude", "longitude", "km around"].map((name) =>
      el("input", { type: "number", step: "any", placeholder: name, "aria-label": `${field}: ${name}` }));
    return [[lat, lon, km], () => {
      const [a, b, c] = [lat, lon, km].map(value);
      return [a, b, c].includes(undefined) ? null : { field, geo_radius: { lat: a, lon: b, radius_m: c * 1000 } };
    }];
  },
};

export function controls(indexes, changed) {
  const fields = Object.entries(indexes || {}).filter(([, kind]) => KINDS[kind]).map(([field, kind]) => {
    const [inputs, condition] = KINDS[kind](field);
    for (const input of inputs) input.addEventListener("change", changed);
    const shown = inputs.length === 1 ? el("label", {}, field, inputs) : el("div", { className: "of", role: "group", ariaLabel: field }, field, el("span", {}, inputs));
    return { shown, condition };
  });
  return {
    elements: fields.map((field) => field.shown),
    filter() {
      const all = fields.map((field) => field.condition()).filter(Boolean);
      return all.length > 1 ? { all } : all[0];
    },
  };
}
