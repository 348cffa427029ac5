// Controls for a collection's declared metadata fields, the filter they stand for, and back.

import { el } from "./dom.js";

const two = (field, type, step) => ["from", "to"].map((name) => el("input", { type, step, "aria-label": `${field}: ${name}`, placeholder: name }));

const instant = (day, time) => (day ? `${day}T${time}Z` : undefined);
const day = (bound) => String(bound ?? "").slice(0, 10);
const value = (input) => (input.value === "" ? undefined : Number(input.value));

function range(field, gte, lte) {
  const bounds = { ...(gte !== undefined ? { gte } : {}), ...(lte !== undefined ? { lte } : {}) };
  return Object.keys(bounds).length ? { field, ...bounds } : null;
}

// For each type: its inputs, the condition that they make (or null), and what fills them in from a condition. The last may be
// careless: `controls` looks whether the same condition comes back.
const KINDS = {
  keyword: (field) => {
    const input = el("textarea", { rows: 1, placeholder: "one value per line" }); // lines, for a value may have a comma
    const condition = () => {
      const words = input.value.split("\n").map((word) => word.trim()).filter(Boolean);
      return !words.length ? null : words.length > 1 ? { field, in: words } : { field, equals: words[0] };
    };
    return [[input], condition, (one) => { input.value = (one.in ?? [one.equals]).join("\n"); }];
  },
  text: (field) => {
    const input = el("input", { type: "text", placeholder: "every word" });
    return [[input], () => (input.value.trim() ? { field, match: input.value.trim() } : null), (one) => { input.value = one.match; }];
  },
  number: (field) => {
    const [low, high] = two(field, "number", "any");
    return [[low, high], () => range(field, value(low), value(high)), (one) => { [low.value, high.value] = [one.gte ?? "", one.lte ?? ""]; }];
  },
  datetime: (field) => {
    const [low, high] = two(field, "date");
    return [[low, high], () => range(field, instant(low.value, "00:00:00"), instant(high.value, "23:59:59.999999")),
      (one) => { [low.value, high.value] = [day(one.gte), day(one.lte)]; }];
  },
  bool: (field) => {
    const choice = el("select", {}, el("option", { value: "" }, "either"), el("option", { value: "true" }, "yes"), el("option", { value: "false" }, "no"));
    return [[choice], () => (choice.value ? { field, equals: choice.value === "true" } : null), (one) => { choice.value = String(one.equals); }];
  },
  geo: (field) => {
    const inputs = [["latitude", "lat"], ["longitude", "lon"], ["km around", "km"]].map(([name, placeholder]) =>
      el("input", { type: "number", step: "any", placeholder, "aria-label": `${field}: ${name}` }));
    const condition = () => {
      const [lat, lon, km] = inputs.map(value);
      return [lat, lon, km].includes(undefined) ? null : { field, geo_radius: { lat, lon, radius_m: km * 1000 } };
    };
    return [inputs, condition, ({ geo_radius: { lat, lon, radius_m } }) => { [lat, lon, radius_m / 1000].forEach((number, n) => { inputs[n].value = number; }); }];
  },
};

const same = (one, other) => JSON.stringify(Object.entries(one ?? {}).sort()) === JSON.stringify(Object.entries(other ?? {}).sort());

// The conditions that `all` of a filter stand for, and a filter of conditions.
const conditions = (filter) => (filter ? filter.all ?? [filter] : []);
export const together = (...filters) => {
  const all = filters.flatMap(conditions);
  return all.length > 1 ? { all } : all[0];
};

function control(field, kind, changed) {
  const [inputs, condition, fill] = KINDS[kind](field);
  for (const input of inputs) input.addEventListener("change", changed);
  const shown = inputs.length === 1 ? el("label", {}, field, inputs)
    : el("div", { className: `of ${kind}`, role: "group", ariaLabel: field }, field, el("span", {}, inputs));
  const empty = () => { for (const input of inputs) input.value = ""; };
  // Whether it now shows this condition, exactly; else it stays empty.
  const show = (one) => {
    if (condition()) return false;
    try { fill(one); } catch { /* of another form */ }
    if (same(condition(), one)) return true;
    empty();
    return false;
  };
  return { field, shown, condition, empty, show };
}

export function controls(indexes, changed) {
  const all = Object.entries(indexes || {}).filter(([, kind]) => KINDS[kind]).map(([field, kind]) => control(field, kind, changed));
  return {
    elements: all.map((one) => one.shown),
    filter: () => together(...all.map((one) => one.condition())),
    // Shows a filter, and returns what of it no control can show.
    set(filter) {
      for (const one of all) one.empty();
      return together(...conditions(filter).filter((wanted) => !all.find((one) => one.field === wanted?.field)?.show(wanted)));
    },
  };
}
