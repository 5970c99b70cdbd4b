// The consumers of the log: how far each is, what waits and why, and parked payments by reason.

import { call, command, pretty, session } from "./api.js";
import { h, icon, replace } from "./dom.js";
import { count, duration } from "./format.js";
import { ask, badge, copyButton, empty, facts, loading, notify, panel, table } from "./parts.js";
import { carryOut } from "./payments.js";
import { t } from "./text.js";

/// The most parked payments that are looked at for their reasons.
const parkedLimit = 1_000;

export async function show(root, { isCurrent }) {
  const consumers = h("div", { class: "stack" }, loading());
  const parked = h("div", {}, loading());
  const bar = h("div", {});
  let snapshot = null;
  replace(root, h("div", { class: "page-head" }, h("h1", { tabIndex: -1 }, t("page.processing")),
    h("div", { class: "actions" }, copyButton(() => pretty(snapshot), t("processing.copy")))), consumers,
  panel(t("processing.parked"), { note: t("processing.parkedNote") }, bar, parked));

  let parkedCount = null;
  async function load() {
    snapshot = await call("/api/v1/consumers");
    if (!isCurrent()) return;
    replace(consumers, overview(snapshot), h("div", { class: "cards" }, snapshot.consumers.map((consumer) => card(consumer))));
    if (snapshot.parked !== parkedCount) {
      parkedCount = snapshot.parked;
      await loadParked();
    }
  }

  async function loadParked() {
    const groups = new Map();
    let after = null;
    let found = 0;
    do {
      const page = await call(`/api/v1/payments?status=Failed&limit=200${after ? `&after=${after}` : ""}`);
      for (const payment of page.payments) {
        const name = `${payment.failure?.step ?? ""}\n${payment.failure?.reason ?? ""}`;
        if (!groups.has(name)) groups.set(name, { step: payment.failure?.step, reason: payment.failure?.reason ?? "–", payments: [] });
        groups.get(name).payments.push(payment);
        found += 1;
      }
      after = page.next;
    } while (after && found < parkedLimit);
    if (!isCurrent()) return;
    const rows = [...groups.values()].sort((a, b) => b.payments.length - a.payments.length);
    if (rows.length === 0) return replace(parked, empty(t("processing.noneParked"), t("processing.noneParkedText")));
    replace(parked, after && h("p", { class: "soft" }, t("processing.firstOnly", { count: parkedLimit })),
      h("div", { class: "scroll" }, table(t("processing.parked"), [
        { title: t("processing.step"), cell: (group) => group.step ? t(`step.${group.step}`) : "–" },
        { title: t("processing.count"), class: "number", cell: (group) => count(group.payments.length) },
        { title: t("processing.reason"), class: "wide", cell: (group) => h("span", { class: "reason" }, group.reason) },
        { title: t("processing.release"), hideTitle: true, class: "wide", cell: (group) => session.may("operate") && h("div", { class: "actions" },
          h("button", { type: "button", class: "small primary", data: { focus: `release-${group.reason}` }, on: { click: () => release(group) } }, icon("play", 14),
            t("processing.releaseAll", { count: group.payments.length })),
          group.payments.length > 1 && h("button", { type: "button", class: "small", on: { click: () => release({ ...group, payments: group.payments.slice(0, 1) }) } }, t("processing.releaseOne"))) },
      ], rows)));
  }

  async function release(group) {
    const number = group.payments.length;
    const values = await ask({ title: t("bulk.retry", { count: number }), text: `${t("bulk.retryText")} ${group.reason}`, confirm: t("processing.releaseAll", { count: number }) });
    if (!values) return;
    const { done, refused } = await carryOut(group.payments, (payment) => command(`/api/v1/payments/${payment.paymentId}/retry`), bar);
    notify(refused.length === 0 ? t("bulk.done", { count: done }) : t("bulk.partly", { count: done, refused: refused.length, reason: refused[0].message }),
      refused.length === 0 ? "good" : "bad");
    parkedCount = null;
    await load();
  }

  await load();
  return { tick: () => { load().catch(() => {}); } };
}

function overview(snapshot) {
  const { calls, damage } = snapshot;
  return h("section", { class: "panel stack", "aria-label": t("processing.calls") }, facts([
    [t("processing.calls"), calls.state === "open" ? badge("good", "done", t("processing.callsOpen")) : badge("bad", "warn", t("processing.callsHeld"))],
    calls.reason && [t("processing.reason"), calls.reason],
    calls.outcomesKept > 0 && [t("processing.outcomesKept"), count(calls.outcomesKept)],
    [t("log.end"), count(snapshot.logEnd)],
    [t("processing.list"), snapshot.paymentList.complete ? t("processing.listComplete") : t("processing.listBehind", { count: snapshot.paymentList.lag })],
    snapshot.clockAheadMilliseconds > 1_000 && [t("processing.clockAhead"), duration(snapshot.clockAheadMilliseconds)],
    [t("status.OutcomeUnknown"), h("a", { href: "#/payments?status=OutcomeUnknown" }, count(snapshot.outcomeUnknown))],
    damage.lostEvents + damage.incompleteStreams + damage.newerPayments > 0 && [t("processing.damage"),
      t("processing.damageText", { events: damage.lostEvents, streams: damage.incompleteStreams })],
  ]), damage.ranges.length > 0 && h("ul", {}, damage.ranges.map((range) => h("li", { class: "reason" }, `${range.file} @${range.byte}: ${range.reason}`))),
  damage.skipped.length > 0 && h("ul", {}, damage.skipped.map((skipped) => h("li", { class: "reason" },
    h("a", { href: `#/payments/${skipped.paymentId}` }, skipped.paymentId.slice(0, 8)), ` ${skipped.step}: ${skipped.reason}`))));
}

function card(consumer) {
  const { breaker } = consumer;
  return h("section", { class: "panel", "aria-label": consumer.name }, h("div", { class: "panel-head" }, h("h2", {}, consumer.name),
    breaker && h("div", { class: "actions" }, breaker.state === "closed" ? badge("good", "done", t("breaker.closed"))
      : badge(breaker.state === "open" ? "bad" : "wait", breaker.state === "open" ? "warn" : "wait", t(`breaker.${breaker.state}`)))),
  breaker?.state === "open" && h("p", { class: "reason soft" }, `${breaker.reason}. `, t("breaker.nextTry", { time: duration(breaker.nextTryInMilliseconds) })),
  facts([
    [t("processing.checkpoint"), count(consumer.checkpoint)], [t("processing.lag"), t("events", { count: consumer.lag })],
    consumer.inFlight !== undefined && [t("processing.inFlight"), count(consumer.inFlight)],
    consumer.slowCalls !== undefined && [t("processing.slow"), count(consumer.slowCalls)],
    consumer.waiting !== undefined && [t("processing.waiting"), count(consumer.waiting)],
    consumer.delayed !== undefined && [t("processing.delayed"), count(consumer.delayed)],
  ]), consumer.reasons?.length > 0 && h("ul", { class: "rows" }, consumer.reasons.map((reason) =>
    h("li", {}, h("b", { class: "number" }, count(reason.payments)), h("span", { class: "reason" }, reason.reason)))));
}
