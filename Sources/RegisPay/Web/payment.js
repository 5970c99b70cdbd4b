// One payment: its state, what led to it, its trace, and what a person can do about it.

import { call, command, pretty, RequestError, session } from "./api.js";
import { h, icon, replace, svg } from "./dom.js";
import { duration, isPositive, money } from "./format.js";
import { ask, badge, copyButton, facts, failed, field, idText, loading, moment, notify, panel, statusBadge, timeAgo } from "./parts.js";
import { note } from "./payments.js";
import { showDelivery } from "./webhooks.js";
import { t } from "./text.js";

export const title = ({ id }) => t("payment.title", { id: id.slice(0, 8) });

/// States that nothing changes any more, unless a person does something.
const ends = new Set(["Completed", "Declined", "Cancelled", "Refunded", "Failed", "OutcomeUnknown"]);

export async function show(root, { id, query, isCurrent }) {
  const path = `/api/v1/payments/${encodeURIComponent(id)}`;
  const head = h("div", { class: "stack" });
  const timeline = h("div", {}, loading());
  const trace = h("div", {}, loading());
  const refunds = h("div", {});
  const webhooks = h("div", {});
  replace(root, h("div", { class: "page-head" }, h("a", { class: "button quiet", href: "#/payments" }, icon("back", 16), t("page.payments")),
    h("h1", { tabIndex: -1, class: "unseen" }, title({ id }))), head,
  h("div", { class: "split" }, h("div", { class: "stack" }, refunds, panel(t("payment.timeline"), {}, timeline)),
    h("div", { class: "stack" }, panel(t("payment.trace"), { actions: [copyButton(() => `${location.origin}${path}/trace`, t("payment.copyTrace"))] }, trace),
      webhooks)));

  /// The version that the page shows the payment as of; null for the present one.
  const past = /^[1-9][0-9]{0,8}$/.test(query.get("version") ?? "") ? Number(query.get("version")) : null;
  const opened = new Set();
  let version = null;
  let timer = null;
  let webhookTimer = null;
  let lastChange = 0;

  async function load() {
    const payment = await call(past === null ? path : `${path}?version=${past}`);
    if (!isCurrent()) return;
    lastChange = Date.parse(payment.updatedAt);
    showHead(payment);
    if (payment.version !== version) {
      version = payment.version;
      const { events } = await call(`${path}/events`);
      if (!isCurrent()) return;
      replace(timeline, timelineOf(events, payment, opened, past));
      loadTrace();
      loadWebhooks();
    }
    clearTimeout(timer);
    // While it goes through, people look at every step.
    if (past === null && (!ends.has(payment.status) || payment.refundingAmount)) timer = setTimeout(() => load().catch(() => {}), payment.waiting ? 2_000 : 300);
  }

  async function loadTrace() {
    try {
      const found = await call(`${path}/trace`);
      if (isCurrent()) replace(trace, waterfall(found));
    } catch (error) {
      if (isCurrent() && error.status !== 401) replace(trace, failed(error, loadTrace));
    }
  }

  async function loadWebhooks() {
    if (!session.may("operate")) return;
    let found;
    try {
      ({ deliveries: found } = await call(`${path}/deliveries`));
    } catch (error) {
      if (isCurrent() && error.status !== 401) replace(webhooks, panel(t("payment.webhooks"), {}, failed(error, loadWebhooks)));
      return;
    }
    if (!isCurrent()) return;
    replace(webhooks, found.length > 0 && panel(t("payment.webhooks"), {}, h("ul", { class: "rows deliveries" }, found.map((delivery) => h("li", {},
      badge(delivery.outcome === "delivered" ? "good" : "bad", delivery.outcome === "delivered" ? "done" : "warn", delivery.status === null ? t("payment.noAnswer") : String(delivery.status)),
      h("div", {}, h("p", {}, h("b", {}, delivery.type), " ", h("span", { class: "soft" }, moment(delivery.startedAt), ` (${duration(delivery.durationMilliseconds)})`)),
        h("a", { href: `#/webhooks?id=${encodeURIComponent(delivery.webhook)}`, class: "reason" }, delivery.url ?? delivery.webhook),
        delivery.error && h("p", { class: "soft reason" }, delivery.error)),
      delivery.url && h("button", { type: "button", class: "small", data: { focus: `delivery-${delivery.id}` }, on: { click: () => showDelivery(delivery.webhook, delivery) } }, t("webhooks.show")))))));
    // The last message goes out a moment after its event.
    clearTimeout(webhookTimer);
    if (Date.now() - lastChange < 5_000) webhookTimer = setTimeout(loadWebhooks, 1_000);
  }

  function showHead(payment) {
    replace(head, past !== null && h("p", { class: "past", role: "status" }, icon("wait", 16), h("span", {}, t("payment.past", { version: past })), h("a", { href: `#/payments/${id}` }, t("payment.present"))),
    h("section", { class: "panel stack", "aria-label": t("payment.state") },
      h("div", { class: "page-head" }, h("p", { class: "headline" }, money(payment.amount, payment.currency)), statusBadge(payment.status),
        h("div", { class: "actions" }, past === null && actionsFor(payment))), note(payment),
      facts([
        [t("payment.id"), idText(payment.paymentId)],
        [t("payment.reference"), payment.paymentReference ? idText(payment.paymentReference) : "–"],
        [t("payment.created"), moment(payment.createdAt), " ", h("span", { class: "soft" }, timeAgo(payment.createdAt))],
        [t("payment.updated"), moment(payment.updatedAt)],
        [t("payment.refunded"), money(payment.refundedAmount, payment.currency)],
        [t("payment.version"), String(payment.version)],
      ])));
    replace(refunds, payment.refunds?.length ? panel(t("payment.refunds"), {}, h("ul", { class: "rows" }, payment.refunds.map((refund) =>
      h("li", {}, h("span", {}, t("payment.refundNumber", { number: refund.refund })), h("span", { class: "amount" }, money(refund.amount, payment.currency)),
        statusBadge(refund.status), refund.reason && h("span", { class: "soft reason" }, refund.reason))))) : null);
  }

  function actionsFor(payment) {
    const { status } = payment;
    const make = (name, scope, kind, act) => session.may(scope) && h("button", { type: "button", class: kind, data: { focus: `action-${name}` }, on: { click: act } }, t(`action.${name}`));
    return [
      status === "Failed" && make("retry", "operate", "primary", () => carry("retry")),
      status === "OutcomeUnknown" && make("resolve", "operate", "primary", () => resolve(payment)),
      ["Settled", "Completed", "Refunding"].includes(status) && make("refund", "write", "", () => refund(payment)),
      ["Initiated", "Created", "Failed"].includes(status) && make("cancel", "write", "", () => cancel(payment)),
    ];
  }

  async function carry(name, body) {
    try {
      await command(`${path}/${name}`, body);
      notify(t(`done.${name}`));
      await load();
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      notify(error.message, "bad");
    }
  }

  async function cancel(payment) {
    const values = await ask({ title: t("ask.cancel"), text: t("ask.cancelText", { amount: money(payment.amount, payment.currency) }), confirm: t("action.cancel"), danger: true });
    if (values) await carry("cancel");
  }

  async function refund(payment) {
    const amount = h("input", { name: "amount", inputMode: "decimal", autocomplete: "off", placeholder: t("refund.all") });
    const values = await ask({ title: t("ask.refund"), confirm: t("action.refund"), danger: true, text: isPositive(payment.refundedAmount)
      ? t("refund.already", { amount: money(payment.refundedAmount, payment.currency), of: money(payment.amount, payment.currency) })
      : t("refund.of", { of: money(payment.amount, payment.currency) }),
    fields: [field(t("refund.amount", { currency: payment.currency }), amount, { hint: t("refund.hint") })],
    check: ({ amount }) => amount.trim() === "" || /^[0-9]+(\.[0-9]+)?$/.test(amount.trim()) ? null : t("refund.notNumber") });
    if (!values) return;
    const text = values.amount.trim();
    // The digits are sent as typed.
    await carry("refunds", text ? `{"amount":${text.replace(/^0+(?=[0-9])/, "")}}` : undefined);
  }

  async function resolve(payment) {
    const steps = payment.unknownSteps ?? [payment.unknown];
    const step = h("select", { name: "step" }, steps.map((unknown, number) => h("option", { value: number },
      t(`step.${unknown.step}`) + (unknown.refund ? ` ${unknown.refund}` : "") + `: ${unknown.reason}`)));
    const outcome = h("select", { name: "outcome" }, h("option", { value: "did-not-happen" }, t("resolve.didNotHappen")), h("option", { value: "happened" }, t("resolve.happened")));
    const reference = h("input", { name: "reference", autocomplete: "off" });
    const values = await ask({ title: t("ask.resolve"), text: t("ask.resolveText"), confirm: t("action.resolve"), danger: true,
      fields: [field(t("resolve.step"), step), field(t("resolve.outcome"), outcome), field(t("resolve.reference"), reference, { hint: t("resolve.referenceHint") })],
      check: (values) => steps[values.step].step === "create" && values.outcome === "happened" && !values.reference.trim() ? t("resolve.needsReference") : null });
    if (!values) return;
    const chosen = steps[values.step];
    await carry("resolve", { step: chosen.step, ...(chosen.refund ? { refund: chosen.refund } : {}), outcome: values.outcome,
      ...(chosen.step === "create" && values.outcome === "happened" ? { reference: values.reference.trim() } : {}) });
  }

  await load();
  return { refresh: load, close: () => { clearTimeout(timer); clearTimeout(webhookTimer); } };
}

const marks = {
  PaymentInitiated: ["move", "add"], PaymentCreated: ["move", "move"], PaymentSettled: ["move", "move"], PaymentCompleted: ["good", "done"],
  PaymentDeclined: ["bad", "stop"], PaymentFailed: ["bad", "warn"], PaymentCancelled: ["quiet", "stop"], PaymentCancellationRequested: ["wait", "stop"],
  PaymentCancellationRefused: ["wait", "warn"], PaymentDelayed: ["wait", "wait"], PaymentRetried: ["move", "play"], PaymentOutcomeUnknown: ["unknown", "unknown"],
  PaymentOutcomeResolved: ["good", "done"], PaymentRefundRequested: ["wait", "refund"], PaymentRefunded: ["good", "refund"],
  PaymentRefundDeclined: ["bad", "refund"], PaymentRefundFailed: ["bad", "refund"],
};

/// The events with the time between them.
function timelineOf(events, payment, opened, past) {
  let before = null;
  return h("ol", { class: "timeline" }, events.map((event) => {
    const [tone, symbol] = marks[event.type] ?? ["quiet", "log"];
    const at = Date.parse(event.timestamp);
    const gap = before === null ? null : at - before;
    before = at;
    const json = h("details", { open: opened.has(event.version), on: { toggle: (toggled) => {
      if (toggled.target.open) opened.add(event.version); else opened.delete(event.version);
    } } }, h("summary", {}, t("payment.json")), h("pre", { class: "json", tabIndex: 0 }, pretty(event)));
    return h("li", { data: { later: String(past !== null && event.version > past) } }, h("span", { class: "timeline-mark", data: { tone } }, icon(symbol, 16)),
      h("div", {}, h("div", { class: "timeline-head" }, h("b", {}, t(`event.${event.type}`)), h("span", { class: "soft" }, moment(event.timestamp),
        gap === null ? "" : ` (+${duration(gap)})`), event.metadata?.actor && h("span", {}, t("payment.by", { name: event.metadata.actor })), h("span", { class: "soft" }, t("payment.offset", { offset: String(event.offset) })),
        h("a", { href: `#/payments/${payment.paymentId}?version=${event.version}`, "aria-current": event.version === past ? "true" : undefined, class: "soft", "aria-label": t("payment.asOfEvent", { event: t(`event.${event.type}`) }) }, t("payment.asOf"))),
      summary(event, payment), callsOf(event), json));
  }));
}

/// The calls that led to an event: when each went out, how long it took, and how it ended.
function callsOf(event) {
  const calls = event.metadata?.calls ?? [];
  return calls.length === 0 ? null : h("ul", { class: "rows calls", "aria-label": t("payment.calls") }, calls.map((made) => h("li", {},
    made.error ? badge("bad", "warn", t("payment.callFailed", { reason: made.error })) : badge("good", "done", t("payment.callDone")),
    h("span", { class: "soft" }, moment(new Date(made.began / 1_000).toISOString())), h("span", { class: "number soft" }, duration(made.took / 1_000)))));
}

function summary(event, payment) {
  const data = event.data ?? {};
  const texts = [];
  if (data.step) texts.push(t(`step.${data.step}`));
  if (data.refund) texts.push(t("payment.refundNumber", { number: data.refund }));
  if (data.amount) texts.push(money(data.amount, data.currency ?? payment.currency));
  if (data.paymentReference) texts.push(data.paymentReference);
  if (data.attempts) texts.push(t("payment.attempts", { count: data.attempts }));
  if (data.reason) texts.push(data.reason);
  return texts.length ? h("p", { class: "reason soft" }, texts.join(", ")) : null;
}

/// The spans as OTLP has them, each as a bar in time under its parent. A payment and each of its refunds have a scale of their own.
function waterfall(trace) {
  const spans = (trace.resourceSpans ?? []).flatMap((resource) => resource.scopeSpans.flatMap((scope) => scope.spans));
  if (spans.length === 0) return h("p", { class: "soft" }, t("trace.none"));
  const children = Map.groupBy(spans, (span) => span.parentSpanId || "");
  const ids = new Set(spans.map((span) => span.spanId));
  const roots = spans.filter((span) => !ids.has(span.parentSpanId)).toSorted(byStart);
  return h("div", { class: "stack" }, h("p", { class: "soft" }, t("trace.id"), " ", idText(spans[0].traceId)), roots.map((root) => {
    const rows = [];
    const add = (span, depth) => {
      rows.push({ span, depth });
      for (const child of (children.get(span.spanId) ?? []).toSorted(byStart)) add(child, depth + 1);
    };
    add(root, 0);
    return h("ul", { class: "waterfall" }, bars(rows));
  }));
}

const start = (span) => BigInt(span.startTimeUnixNano);
const isOpen = (span) => span.endTimeUnixNano === undefined;
/// One that has not ended lasts until now.
const end = (span) => {
  const now = BigInt(Date.now()) * 1_000_000n;
  return isOpen(span) ? (now > start(span) ? now : start(span)) : BigInt(span.endTimeUnixNano);
};
const byStart = (a, b) => start(a) < start(b) ? -1 : 1;

function bars(rows) {
  const first = rows.map(({ span }) => start(span)).reduce((a, b) => a < b ? a : b);
  const last = rows.map(({ span }) => end(span)).reduce((a, b) => a > b ? a : b);
  const whole = Number(last - first) || 1;
  return rows.map(({ span, depth }) => {
    const from = Number(start(span) - first) / whole * 100;
    const length = Number(end(span) - start(span));
    const isFailed = span.status?.code === 2;
    const about = attributesOf(span);
    return h("li", { data: { tone: isFailed ? "bad" : "move" }, title: about },
      h("span", { class: "name" }, "\u2003".repeat(depth), isFailed ? icon("warn", 12) : null, span.name, h("span", { class: "unseen" }, ` ${about}`)),
      svg("svg", { viewBox: "0 0 100 16", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("rect", { class: "lane", x: 0, y: 7, width: 100, height: 2 }),
        svg("rect", { x: Math.min(from, 99.5), y: 3, width: Math.max(length / whole * 100, 0.5), height: 10, rx: 0.5 })),
      h("span", { class: "number" }, isOpen(span) ? t("trace.running") : duration(length / 1e6)));
  });
}

function attributesOf(span) {
  const value = (attribute) => Object.values(attribute.value)[0];
  const texts = (span.attributes ?? []).map((attribute) => `${attribute.key}: ${typeof value(attribute) === "object" ? JSON.stringify(value(attribute)) : value(attribute)}`);
  if (span.status?.message) texts.unshift(span.status.message);
  return texts.join("\n");
}
