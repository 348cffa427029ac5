// Elements by plain calls; text is always text, never markup.

export const by = (id) => document.getElementById(id);

const present = (children) => children.flat().filter((child) => child !== null && child !== undefined && child !== false);

// Puts these in the place of what is there; what is null or false is left out.
export const fill = (place, ...children) => place.replaceChildren(...present(children));

export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && name !== "list" && name !== "form") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...present(children));
  return made;
}

// What went wrong, as the service said it.
export function problem(error) {
  const said = /[.!?]$/.test(error.message) ? error.message : `${error.message}.`;
  const again = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  const code = error.code ? ` (${error.code})` : "";
  return el("div", { className: "problem", role: "alert" }, el("b", {}, error.title || "This did not work"), code, ": ",
    said, again, error.requestId ? el("div", { className: "quiet" }, "Request ", el("code", {}, error.requestId)) : null);
}

export const when = (seconds) => new Date(seconds * 1000).toLocaleString();
export const number = (value) => Number(value ?? 0).toLocaleString();
export const size = (bytes) => (bytes === null ? "" : bytes < 2 ** 20 ? `${Math.ceil(bytes / 1024).toLocaleString()} KiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`);
