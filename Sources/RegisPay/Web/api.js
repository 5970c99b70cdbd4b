// Requests to the server. The API key is kept in the tab and never sent to another server.

import { t } from "./text.js";

const keyName = "regispay-key";

export const session = {
  /// What `GET /api/v1/session` said; null before and without a valid key.
  known: null,
  get hasKey() { return sessionStorage.getItem(keyName) !== null; },
  may(scope) { return this.known?.scopes.includes(scope) ?? false; },
  setKey(key) { sessionStorage.setItem(keyName, key); },
  forget() { sessionStorage.removeItem(keyName); this.known = null; },
};

/// Called when the server asks for a key, or refuses the one that the tab has.
let whenRefused = () => {};
export function onRefusedKey(listener) { whenRefused = listener; }

/// An error that the server reported, or that there was no answer.
export class RequestError extends Error {
  /// `status` is 0 without an answer. `errors` are messages by field.
  constructor(status, message, errors = {}) {
    super(message);
    this.status = status;
    this.errors = errors;
  }
}

// Amounts keep the digits they were sent with: where the browser provides the JSON source text, they are taken from it, and nothing
// computes with them.
const amounts = new Set(["amount", "refunded", "refundedAmount", "refundingAmount"]);
export const parse = (text) => JSON.parse(text, (key, value, context) =>
  amounts.has(key) && typeof value === "number" ? context?.source ?? String(value) : value);
const rawAmount = (key, value) =>
  amounts.has(key) && typeof value === "string" && JSON.rawJSON ? JSON.rawJSON(value) : value;
/// JSON for people, with amounts as they were sent.
export const pretty = (value) => JSON.stringify(value, rawAmount, 2);

/// Sends a request and returns the response, whatever its status.
export async function send(path, { method = "GET", body, headers = {}, signal } = {}) {
  const key = sessionStorage.getItem(keyName);
  const all = { ...headers };
  if (key) all.Authorization = `Bearer ${key}`;
  if (body !== undefined) all["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers: all, signal, body: typeof body === "object" ? JSON.stringify(body) : body });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError(0, t("error.noAnswer"));
  }
  if (response.status === 401) whenRefused();
  return response;
}

/// Sends a request and returns its JSON. Throws RequestError.
export async function call(path, options = {}) {
  const response = await send(path, options);
  let text;
  try {
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError(0, t("error.noAnswer"));
  }
  if (response.status === 204) return null;
  let json;
  try {
    json = parse(text);
  } catch {
    throw new RequestError(response.status, text.slice(0, 300) || t("error.status", { status: response.status }));
  }
  if (!response.ok) {
    throw new RequestError(response.status, json.detail ?? json.title ?? json.message ?? t("error.status",
      { status: response.status }), json.errors ?? {});
  }
  return json;
}

/// A key that makes a POST repeatable. `randomUUID` exists only in secure contexts, and these pages may be served over plain HTTP.
export function idempotencyKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return "page-" + Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/// A command that is sent with a key of its own, and once more with the same key when there was no answer. So it is carried out once.
export async function command(path, body) {
  const headers = { "Idempotency-Key": idempotencyKey() };
  try {
    return await call(path, { method: "POST", body, headers });
  } catch (error) {
    if (error.status !== 0) throw error;
    return call(path, { method: "POST", body, headers });
  }
}
