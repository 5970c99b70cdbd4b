"use strict";

// Everything from the server is set as text, never as HTML. Amounts keep the digits they were sent with: where the browser
// provides the JSON source text, they are taken from it, and nothing computes with them.

const shownLimit = 50;
const rows = new Map();
// The key is deleted with the tab and never sent to another server.
const keyName = "regispay-key";
const call = async (path, options = {}) => {
  const key = sessionStorage.getItem(keyName);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) byId("key-section").hidden = false;
  return response;
};
const byId = (id) => document.getElementById(id);
const amounts = new Set(["amount", "refundedAmount", "refundingAmount"]);
const parse = (text) => JSON.parse(text, (key, value, context) =>
  amounts.has(key) && typeof value === "number" ? context?.source ?? String(value) : value);

const rawAmount = (key, value) => amounts.has(key) && JSON.rawJSON ? JSON.rawJSON(value) : value;

function element(tag, properties, ...children) {
  const created = Object.assign(document.createElement(tag), properties);
  created.append(...children);
  return created;
}

function money(amount, currency) {
  try {
    return new Intl.NumberFormat(undefined, { style: "currency", currency }).format(amount);
  } catch {
    return `${amount} ${currency}`;
  }
}

function showState(row, status, note) {
  row.state.dataset.state = status;
  row.state.textContent = status;
  if (note) row.state.append(element("span", { className: "note" }, note));
}

function note(payment) {
  const notes = [(payment.unknown ?? payment.failure ?? payment.waiting)?.reason];
  if (payment.refundingAmount) notes.unshift(`${money(payment.refundingAmount, payment.currency)} is being refunded`);
  // Tests the digits only: nothing computes with amounts.
  if (/[1-9]/.test(payment.refundedAmount ?? "")) {
    notes.unshift(`${money(payment.refundedAmount, payment.currency)} refunded`);
  }
  return notes.filter(Boolean).join("; ");
}

function addRow(payment, atEnd) {
  if (rows.has(payment.paymentId)) return;
  const id = payment.paymentId;
  const state = element("td", { className: "state" });
  const more = element("button", { type: "button", className: "quiet" }, "Events");
  more.setAttribute("aria-expanded", "false");
  more.setAttribute("aria-label", `Events of payment ${id}`);
  const created = new Date(payment.createdAt);
  const line = element("tr", {},
    element("td", { className: "id", title: id }, id.slice(0, 13)),
    element("td", { className: "amount" }, money(payment.amount, payment.currency)),
    state,
    element("td", {}, element("time", { dateTime: payment.createdAt }, created.toLocaleTimeString())),
    element("td", {}, more));
  line.dataset.payment = id;
  const row = { line, state, more, detail: null };
  more.addEventListener("click", () => toggleEvents(id, row));
  rows.set(id, row);
  showState(row, payment.status, note(payment));
  if (atEnd) byId("payments").append(line); else byId("payments").prepend(line);
  byId("empty").hidden = true;
  while (rows.size > shownLimit) {
    removeRow([...byId("payments").querySelectorAll("tr[data-payment]")].at(-1).dataset.payment);
  }
}

function removeRow(id) {
  const row = rows.get(id);
  row.line.remove();
  row.detail?.remove();
  rows.delete(id);
}

async function toggleEvents(id, row) {
  const open = row.detail === null;
  row.more.setAttribute("aria-expanded", String(open));
  if (!open) {
    row.detail.remove();
    row.detail = null;
    return;
  }
  const cell = element("td", { colSpan: 5 }, "Loading…");
  row.detail = element("tr", {}, cell);
  row.line.after(row.detail);
  await showEvents(id, cell);
}

async function showEvents(id, cell) {
  try {
    const response = await call(`/api/v1/payments/${encodeURIComponent(id)}/events`);
    const list = element("ol", {});
    for (const event of parse(await response.text()).events) {
      list.append(element("li", {}, `${event.type}, ${new Date(event.timestamp).toLocaleTimeString()}`,
        element("pre", {}, JSON.stringify(event.data, rawAmount, 2))));
    }
    cell.replaceChildren(list);
  } catch {
    cell.textContent = "The events can't be loaded now.";
  }
}

const states = { PaymentInitiated: "Initiated", PaymentCreated: "Created", PaymentSettled: "Settled",
  PaymentCompleted: "Completed", PaymentFailed: "Failed", PaymentDeclined: "Declined",
  PaymentCancelled: "Cancelled", PaymentCancellationRequested: "Cancelling",
  PaymentOutcomeUnknown: "OutcomeUnknown" };
// After these events the state depends on earlier ones, so the page requests it.
const unclear = new Set(["PaymentCancellationRefused", "PaymentRetried", "PaymentDelayed",
  "PaymentRefundRequested", "PaymentRefunded", "PaymentRefundDeclined", "PaymentRefundFailed", "PaymentOutcomeResolved"]);

async function loadState(id, row) {
  try {
    const payment = parse(await (await call(`/api/v1/payments/${encodeURIComponent(id)}`)).text());
    showState(row, payment.status, note(payment));
  } catch {
    showState(row, row.state.dataset.state, "the state can't be loaded now");
  }
}

function apply(event) {
  const status = states[event.type];
  if (!event.stream.startsWith("pay:")) return;
  const id = event.stream.slice(4);
  if (unclear.has(event.type) && rows.has(id)) {
    const row = rows.get(id);
    loadState(id, row);
    if (row.detail) showEvents(id, row.detail.firstChild);
  }
  if (!status) return;
  if (status === "Initiated") {
    addRow({ paymentId: id, amount: event.data.amount, currency: event.data.currency, status,
      createdAt: event.timestamp }, false);
  } else if (rows.has(id)) {
    const row = rows.get(id);
    showState(row, status, event.data?.reason);
    if (row.detail) showEvents(id, row.detail.firstChild);
  }
}

// Events are shown in batches, so that the page stays responsive at hundreds of events a second.
let pending = [];
function enqueue(event) {
  pending.push(event);
  if (pending.length > 1) return;
  setTimeout(() => {
    const events = pending;
    pending = [];
    events.forEach(apply);
  }, 50);
}

function showLive(state) {
  byId("live").dataset.state = state;
  byId("live").textContent = state;
}

// Reads with fetch, because an EventSource can't send a key.
async function follow(from) {
  const response = await call(`/api/v1/events?from=${from}`);
  if (!response.ok) throw new Error(response.statusText);
  showLive("live");
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data: ")) enqueue(parse(line.slice(6)));
  }
}

async function start() {
  try {
    const response = await call(`/api/v1/payments?limit=${shownLimit}`);
    if (response.status === 401) return showLive("key required");
    if (!response.ok) throw new Error(response.statusText);
    const page = parse(await response.text());
    [...rows.keys()].forEach(removeRow);
    page.payments.forEach((payment) => addRow(payment, true));
    byId("empty").hidden = rows.size > 0;
    await follow(page.asOf);
    throw new Error("the stream ended");
  } catch {
    showLive("reconnecting");
    setTimeout(start, 1000);
  }
}

function showErrors(errors) {
  for (const field of ["amount", "currency"]) {
    const messages = errors[field] ?? [];
    byId(`${field}-error`).textContent = messages.join(". ");
    byId(field).setAttribute("aria-invalid", String(messages.length > 0));
  }
  const first = ["amount", "currency"].find((field) => errors[field]);
  if (first) byId(first).focus();
}

// The request that has no response yet. Submitting it again reuses its key, so it creates one payment and not two.
let pendingRequest = null;
function keyOf(body) {
  if (pendingRequest?.body !== body) {
    // randomUUID exists only in secure contexts, and this page may be served over plain HTTP.
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    pendingRequest = { body, key: "page-" + Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("") };
  }
  return pendingRequest.key;
}

async function create(submit) {
  submit.preventDefault();
  const amount = byId("amount").value.trim();
  const currency = JSON.stringify(byId("currency").value);
  // The digits are sent as typed.
  const number = /^-?(0|[1-9][0-9]*)(\.[0-9]+)?$/.test(amount) ? amount : amount ? JSON.stringify(amount) : "null";
  byId("result").textContent = "";
  try {
    const request = `{"amount":${number},"currency":${currency}}`;
    const response = await call("/api/v1/payments", { method: "POST", body: request,
      headers: { "Content-Type": "application/json", "Idempotency-Key": keyOf(request) } });
    const body = parse(await response.text());
    // After a server error the payment may have been accepted.
    if (response.status < 500) pendingRequest = null;
    showErrors(body.errors ?? {});
    if (response.ok) {
      byId("result").textContent = `Payment ${body.paymentId} was created.`;
      byId("amount").value = "";
    } else if (!body.errors) {
      byId("result").textContent = body.detail ?? "The payment was not accepted.";
    }
  } catch {
    byId("result").textContent =
      "The server did not respond, and the payment may have been accepted. Try again: it is created only once.";
  }
}

byId("key-form").addEventListener("submit", (submit) => {
  submit.preventDefault();
  sessionStorage.setItem(keyName, byId("key").value.trim());
  byId("key").value = "";
  byId("key-section").hidden = true;
  start();
});
byId("create").addEventListener("submit", create);
start();
