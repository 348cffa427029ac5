// Calls of the service that serves this page. The key, where one is wanted, lives in this tab alone.

const KEY = "ret2-api-key";

export class Problem extends Error {
  constructor(status, body, retryAfter) {
    super(body?.detail || `The service answered ${status}.`);
    this.status = status;
    this.title = body?.title;
    this.code = body?.code;
    this.fields = (body?.errors || []).map(({ field }) => field);
    this.requestId = body?.request_id;
    this.retryAfter = retryAfter;
  }
}

export const key = {
  get value() { return sessionStorage.getItem(KEY) || ""; },
  set value(secret) { secret ? sessionStorage.setItem(KEY, secret) : sessionStorage.removeItem(KEY); },
};

async function answer(path, options = {}) {
  const headers = { ...(options.headers || {}) };
  const used = key.value;
  if (used) headers["X-API-Key"] = used;
  let response;
  try {
    response = await fetch(path, { ...options, headers, credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { title: "The service does not answer", detail: "It may be starting, or the network is down." });
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  // Not where another key has been entered meanwhile: this answer is about the one before.
  if (response.status === 401 && used === key.value) document.dispatchEvent(new CustomEvent("key-wanted", { detail: used !== "" }));
  throw new Problem(response.status, body, response.headers.get("retry-after"));
}

export async function get(path, options) {
  return (await answer(path, options)).json();
}

export async function post(path, body, options = {}) {
  const sent = body === undefined ? {} : { body: JSON.stringify(body), headers: { "content-type": "application/json" } };
  return (await answer(path, { method: "POST", ...sent, ...options })).json();
}

// An address for <img>. With a key the picture has to be fetched, for an <img> sends none.
export async function picture(path) {
  path = path.replace(/^\//, "");
  if (!key.value) return path;
  return URL.createObjectURL(await (await answer(path)).blob());
}

// Server-sent events by fetch, since EventSource cannot send a key. Ends with the stream.
export async function events(path, signal, each) {
  const response = await answer(path, { signal, headers: { accept: "text/event-stream" } });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split(/\r?\n\r?\n/);
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
      if (data) each(JSON.parse(data));
    }
  }
}
