// The consumers of the log: how far each is, what waits and why, and parked payments by reason.

import { batchList, beginBatch } from "./batches.js";
import { call, pretty, session } from "./api.js";
import { h, icon, replace } from "./dom.js";
import { count, duration } from "./format.js";
import { ask, badge, copyButton, empty, facts, failed, field, loading, notify, panel, table } from "./parts.js";
import { t } from "./text.js";

/// The longest reason that can be a filter.
const reasonLimit = 500;

export async function show(root, { isCurrent }) {
  const consumers = h("div", { class: "stack" }, loading());
  const parked = h("div", {}, loading());
  const batches = batchList(isCurrent, () => { parkedCount = null; });
  let snapshot = null;
  replace(root, h("div", { class: "page-head" }, h("h1", { tabIndex: -1 }, t("page.processing")),
    h("div", { class: "actions" }, copyButton(() => pretty(snapshot), t("processing.copy")))), consumers,
  panel(t("processing.parked"), { note: t("processing.parkedNote") }, batches.place, parked));

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
    let found;
    try {
      found = await call("/api/v1/payments/troubles?status=Failed");
    } catch (error) {
      // While the list is rebuilt. The next tick asks again.
      parkedCount = null;
      if (isCurrent() && error.status !== 401) replace(parked, failed(error));
      return;
    }
    const { troubles, complete } = found;
    if (!isCurrent()) return;
    if (troubles.length === 0) return replace(parked, empty(t("processing.noneParked"), t("processing.noneParkedText")));
    replace(parked, !complete && h("p", { class: "soft" }, t("processing.firstOnly", { count: troubles.length })),
      h("div", { class: "scroll" }, table(t("processing.parked"), [
        { title: t("processing.step"), cell: (group) => t(`step.${group.step}`) },
        { title: t("processing.count"), class: "number", cell: (group) => h("a", { href: `#/payments?${new URLSearchParams(filter(group))}` }, count(group.payments)) },
        { title: t("processing.reason"), class: "wide", cell: (group) => h("span", { class: "reason" }, group.reason) },
        { title: t("processing.release"), hideTitle: true, class: "wide", cell: (group) => session.may("operate") && [...group.reason].length <= reasonLimit && h("div", { class: "actions" },
          h("button", { type: "button", class: "small primary", data: { focus: `release-${group.reason}` }, on: { click: () => release(group) } }, icon("play", 14),
            t("processing.releaseAll", { count: group.payments })),
          group.payments > 1 && h("button", { type: "button", class: "small", data: { focus: `some-${group.reason}` }, on: { click: () => releaseSome(group) } }, t("processing.releaseSome"))) },
      ], troubles)));
  }

  const filter = (group) => ({ status: "Failed", step: group.step, reason: group.reason });

  async function release(group, most) {
    if (!await beginBatch("retry", filter(group), { most, text: group.reason })) return;
    await batches.watch();
    parkedCount = null;
    await load();
  }

  async function releaseSome(group) {
    const number = h("input", { name: "number", type: "number", min: "1", max: String(group.payments), value: "1", required: true });
    const values = await ask({ title: t("processing.releaseSome"), text: group.reason, fields: [field(t("processing.count"), number, { hint: t("processing.oldestFirst") })], confirm: t("processing.release"),
      check: ({ number }) => Number.isInteger(Number(number)) && Number(number) >= 1 ? null : t("processing.notNumber") });
    if (values) await release(group, Number(values.number));
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
  breaker?.state === "open" && h("p", { class: "reason soft" }, `${breaker.reason}. `, t("breaker.nextTry", { time: duration(breaker.nextTryInMilliseconds) }), " ",
    session.may("operate") && h("button", { type: "button", class: "small", data: { focus: `try-${consumer.name}` }, on: { click: () => tryNow(consumer.name) } }, t("breaker.tryNow"))),
  facts([
    [t("processing.checkpoint"), count(consumer.checkpoint)], [t("processing.lag"), t("events", { count: consumer.lag })],
    consumer.inFlight !== undefined && [t("processing.inFlight"), count(consumer.inFlight)],
    consumer.slowCalls !== undefined && [t("processing.slow"), count(consumer.slowCalls)],
    consumer.waiting !== undefined && [t("processing.waiting"), count(consumer.waiting)],
    consumer.delayed !== undefined && [t("processing.delayed"), count(consumer.delayed)],
  ]), consumer.reasons?.length > 0 && h("ul", { class: "rows" }, consumer.reasons.map((reason) =>
    h("li", {}, h("b", { class: "number" }, count(reason.payments)), h("span", { class: "reason" }, reason.reason)))));
}

async function tryNow(name) {
  try {
    await call(`/api/v1/consumers/${name}/try`, { method: "POST" });
    notify(t("breaker.tries"));
  } catch (error) {
    notify(error.message, "bad");
  }
}
