// Creates a payment, shows the request as it is sent, and twenty at once for a demonstration.

import { call, idempotencyKey, pretty, RequestError } from "./api.js";
import { h, replace } from "./dom.js";
import { copyButton, field, panel, showFieldErrors } from "./parts.js";
import { carryOut } from "./payments.js";
import { t } from "./text.js";

export async function show(root, { isCurrent }) {
  const amount = h("input", { name: "amount", id: "amount", inputMode: "decimal", autocomplete: "off", placeholder: "12.34", data: { focus: "amount" } });
  const currency = h("select", { name: "currency", id: "currency" }, ["GBP", "EUR", "USD"].map((code) => h("option", {}, code)));
  const general = h("p", { class: "field-error", role: "alert" });
  const request = h("pre", { class: "json", tabIndex: 0, "aria-label": t("create.body") });
  const curl = h("pre", { class: "json", tabIndex: 0, "aria-label": "curl" });
  const answer = h("div", { role: "status" });
  const bar = h("div", {});
  const submit = h("button", { type: "submit", class: "primary" }, t("create.submit"));
  const twenty = h("button", { type: "button", on: { click: createTwenty } }, t("create.twenty"));

  // The request that has no response yet. Submitting it again has the same key, so it creates one payment and not two.
  let pending = null;

  /// The digits are sent as typed.
  function body() {
    const text = amount.value.trim();
    const number = /^-?(0|[1-9][0-9]*)(\.[0-9]+)?$/.test(text) ? text : text ? JSON.stringify(text) : "null";
    return `{"amount":${number},"currency":${JSON.stringify(currency.value)}}`;
  }

  function preview() {
    const text = body();
    request.textContent = `POST /api/v1/payments\nContent-Type: application/json\nIdempotency-Key: ${keyOf(text)}\n\n${text}`;
    curl.textContent = curlText(text);
  }

  function keyOf(text) {
    if (pending?.body !== text) pending = { body: text, key: idempotencyKey() };
    return pending.key;
  }

  const curlText = (text) => [`curl -sS ${location.origin}/api/v1/payments`, "  -H 'Authorization: Bearer YOUR-KEY'", "  -H 'Content-Type: application/json'",
    `  -H 'Idempotency-Key: ${keyOf(text)}'`, `  -d '${text.replaceAll("'", "'\\''")}'`].join(" \\\n");

  const form = h("form", { class: "stack", noValidate: true, on: { submit: create, input: preview } },
    h("div", { class: "fields" }, field(t("payment.amount"), amount), field(t("payment.currency"), currency)), general,
    h("div", { class: "actions" }, submit, twenty), bar);

  async function create(event) {
    event.preventDefault();
    if (submit.disabled) return;
    submit.disabled = true;
    general.textContent = "";
    const text = body();
    try {
      const made = await call("/api/v1/payments", { method: "POST", body: text, headers: { "Idempotency-Key": keyOf(text) } });
      pending = null;
      showFieldErrors(form, {});
      amount.value = "";
      if (isCurrent()) {
        replace(answer, h("p", {}, t("create.done"), " ", h("a", { href: `#/payments/${made.paymentId}`, data: { focus: "made" } }, made.paymentId)),
          h("pre", { class: "json" }, pretty(made)));
        location.hash = `#/payments/${made.paymentId}`;
      }
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      // After a server error, or without an answer, the payment may have been accepted: then the key stays.
      if (error.status > 0 && error.status < 500) pending = null;
      const rest = showFieldErrors(form, error.errors);
      general.textContent = error.status === 0 || error.status >= 500 ? `${error.message} ${t("create.again")}` : rest || (Object.keys(error.errors).length ? "" : error.message);
    } finally {
      submit.disabled = false;
      preview();
    }
  }

  async function createTwenty() {
    twenty.disabled = true;
    const ids = [];
    const one = async (number) => {
      const text = `{"amount":${5 + number * 3}.${String(number * 7 % 100).padStart(2, "0")},"currency":"${["GBP", "EUR", "USD"][number % 3]}"}`;
      ids.push((await call("/api/v1/payments", { method: "POST", body: text, headers: { "Idempotency-Key": idempotencyKey() } })).paymentId);
    };
    const { done, refused } = await carryOut(Array.from({ length: 20 }, (_, number) => number), one, bar);
    twenty.disabled = false;
    if (!isCurrent()) return;
    replace(answer, h("p", {}, t("create.doneMany", { count: done }), refused.length ? ` ${refused[0].message}` : ""),
      h("p", {}, h("a", { href: "#/payments" }, t("page.payments"))));
  }

  replace(root, h("div", { class: "page-head" }, h("h1", { tabIndex: -1 }, t("page.create"))),
    h("div", { class: "columns" }, panel(t("create.form"), {}, form, answer),
      h("div", { class: "stack" }, panel(t("create.body"), { actions: [copyButton(() => body(), t("copy.body"))] }, request),
        panel("curl", { actions: [copyButton(() => curl.textContent, t("copy.curl"))] }, curl))));
  preview();
  amount.focus();
}
