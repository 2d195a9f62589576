// Requests to the service, and its refusals in words for people.

const KEY = "mildnet-api-key";
const STOPPED = "The search service does not answer. Nothing is lost: try again in a moment.";

/** Why there is no answer: one line, and what can be done about it. */
export class Problem extends Error {
  /**
   * @param {string} message one line for people
   * @param {{retry?: boolean, wait?: number, key?: boolean}} way retry: asking again may help;
   *   wait: seconds until then; key: an API key is asked for
   */
  constructor(message, { retry = false, wait = 0, key = false } = {}) {
    super(message);
    Object.assign(this, { retry, wait, key });
  }
}

// Where storage is switched off, the key lives as long as the page.
let key = "";
try {
  key = sessionStorage.getItem(KEY) ?? "";
} catch { /* no storage */ }

export const hasKey = () => key !== "";

export function keepKey(value) {
  key = value;
  try {
    sessionStorage.setItem(KEY, value);
  } catch { /* no storage */ }
}

/** The path of something that belongs to a product; ids may hold slashes, `#` and `?`. */
export function pathOf(kind, id) {
  return `v1/${kind}/${id.split("/").map(encodeURIComponent).join("/")}`;
}

export function withParameters(path, parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== "" && value != null);
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

/** Return the answer as JSON; throws `Problem`, or `AbortError` once `signal` says so. */
export async function askJson(path, options) {
  return ask(path, options, (answer) => answer.json());
}

/** Return the answer's content, such as a picture. */
export async function askBlob(path, options) {
  return ask(path, options, (answer) => answer.blob());
}

async function ask(path, options = {}, read) {
  const headers = { ...options.headers };
  if (key) headers["X-API-Key"] = key;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
    if (answer.ok) return await read(answer);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(STOPPED, { retry: true });
  }
  throw await refusal(answer);
}

async function refusal(answer) {
  const content = await answer.json().catch(() => ({}));
  const detail = typeof content.detail === "string" ? sentence(content.detail) : "";
  if (answer.status === 401) {
    return new Problem(hasKey() ? "The service does not accept this key." : "", { key: true });
  }
  if (answer.status === 429) {
    const wait = Math.max(1, Math.ceil(Number(answer.headers.get("Retry-After")) || 1));
    return new Problem("Too many searches at once.", { retry: true, wait });
  }
  if (answer.status >= 500) {
    return new Problem(detail || `The search service failed (${answer.status}).`, { retry: true });
  }
  return new Problem(detail || `The search service refused this (${answer.status}).`);
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}
