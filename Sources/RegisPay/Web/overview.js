// What goes through now and went through in the last hour. What needs a person stands first, each with its action.

import { call } from "./api.js";
import { h, icon, replace } from "./dom.js";
import { bytes, count, duration, money, percent, rate } from "./format.js";
import { badge, chart, empty, loading, panel, statusBadge, tile, timeAgo } from "./parts.js";
import { t } from "./text.js";

export async function show(root) {
  const attention = h("div", {});
  const tiles = h("div", { class: "tiles" });
  const charts = h("div", { class: "columns" });
  const recent = h("div", {}, loading());
  replace(root, h("div", { class: "page-head" }, h("h1", { tabIndex: -1 }, t("page.overview"))), attention, tiles, charts,
    panel(t("overview.recent"), { actions: [h("a", { class: "button small", href: "#/payments" }, t("overview.all"))] }, recent));

  const showTick = (tick) => {
    replace(attention, attentionPanel(tick));
    replace(tiles, numbers(tick));
  };
  const showPoints = (activity) => {
    const points = activity.points;
    const times = points.map((point) => Date.parse(point.at));
    const values = (of) => points.map((point) => of(point) ?? null);
    replace(charts,
      chart({ title: t("overview.throughput"), times, show: (value) => value === null ? "–" : t("perSecond", { rate: rate(value) }), series: [
        { name: t("overview.accepted"), tone: "move", values: values((point) => point.acceptedPerSecond) },
        { name: t("overview.completed"), tone: "good", values: values((point) => point.completedPerSecond) },
        { name: t("overview.otherEnds"), tone: "bad", values: values((point) => point.otherEndsPerSecond) }] }),
      chart({ title: t("overview.toCompleted"), times, show: duration, series: [
        { name: "p50", tone: "move", values: values((point) => point.completionMilliseconds?.p50) },
        { name: "p99", tone: "wait", values: values((point) => point.completionMilliseconds?.p99) }] }),
      chart({ title: t("overview.lag"), times, show: (value) => value === null ? "–" : duration(value * 1_000), series: [
        { name: t("overview.lag"), tone: "wait", values: values((point) => point.lag?.seconds) }] }),
      chart({ title: t("overview.sync"), times, show: duration, series: [
        { name: "p50", tone: "move", values: values((point) => point.syncMilliseconds?.p50) },
        { name: "p99", tone: "wait", values: values((point) => point.syncMilliseconds?.p99) }] }));
  };
  const showRecent = async () => {
    const page = await call("/api/v1/payments?limit=8");
    replace(recent, page.payments.length === 0
      ? empty(t("payments.none"), t("payments.noneText"), h("a", { class: "button primary", href: "#/create" }, t("page.create")))
      : h("ul", { class: "recent" }, page.payments.map((payment) => h("li", {},
        h("a", { href: `#/payments/${payment.paymentId}` }, h("code", {}, payment.paymentId.slice(0, 13))),
        h("span", { class: "amount" }, money(payment.amount, payment.currency)), statusBadge(payment.status),
        h("span", { class: "soft" }, timeAgo(payment.createdAt))))));
  };

  const activity = await call("/api/v1/activity");
  showTick(activity.tick);
  showPoints(activity);
  await showRecent();
  let askedAt = Date.now();
  return {
    tick: (tick) => {
      showTick(tick);
      if (Date.now() - askedAt < activity.stepSeconds * 1_000) return;
      askedAt = Date.now();
      // The next tick asks again.
      call("/api/v1/activity").then(showPoints, () => {});
    },
    refresh: showRecent,
  };
}

function numbers(tick) {
  const ended = tick.completedPerSecond + tick.otherEndsPerSecond;
  return [
    tile(t("overview.accepted"), t("perSecond", { rate: rate(tick.acceptedPerSecond) })),
    tile(t("overview.completed"), t("perSecond", { rate: rate(tick.completedPerSecond) }),
      { note: ended > 0 ? t("overview.success", { share: percent(tick.completedPerSecond / ended) }) : undefined }),
    tile(t("overview.toCompleted"), tick.completionMilliseconds ? duration(tick.completionMilliseconds.p50) : "–",
      { note: tick.completionMilliseconds ? `p99 ${duration(tick.completionMilliseconds.p99)}` : t("overview.noneCompleted") }),
    tile(t("overview.lag"), duration(tick.lag.seconds * 1_000), { note: t("events", { count: tick.lag.events }), tone: tick.lag.seconds > 30 ? "wait" : "",
      href: "#/processing" }),
    tile(t("overview.waiting"), count(tick.delayed), { note: t("overview.waitingNote"), tone: tick.delayed > 0 ? "wait" : "", href: "#/processing" }),
    tile(t("status.Failed"), count(tick.parked), { tone: tick.parked > 0 ? "bad" : "", href: "#/payments?status=Failed" }),
    tile(t("status.OutcomeUnknown"), count(tick.outcomeUnknown), { tone: tick.outcomeUnknown > 0 ? "unknown" : "", href: "#/payments?status=OutcomeUnknown" }),
    tile(t("overview.disk"), bytes(tick.disk?.availableBytes), { note: tick.disk?.fullInSeconds ? t("overview.fullIn",
      { time: duration(tick.disk.fullInSeconds * 1_000) }) : undefined, tone: tick.disk && tick.disk.availableBytes < tick.disk.sizeBytes * 0.1 ? "wait" : "" }),
  ];
}

function attentionPanel(tick) {
  const items = [];
  const add = (tone, symbol, title, text, href, action) => items.push(h("li", { data: { tone } }, h("b", {}, icon(symbol), title),
    h("p", {}, text), h("a", { class: "button small", href }, action)));
  if (tick.callsHeld) add("bad", "warn", t("attention.held"), t("attention.heldText"), "#/system", t("attention.look"));
  // One service may have a breaker for each step.
  for (const [, [breaker]] of Map.groupBy(tick.openBreakers, (breaker) => `${breaker.service} ${breaker.reason}`)) {
    add("bad", "warn", t("attention.breaker", { service: t(`service.${breaker.service}`) }), breaker.reason ?? t("attention.breakerText"), "#/processing", t("attention.look"));
  }
  if (tick.problems > 0) add("bad", "warn", t("attention.problems", { count: tick.problems }), t("attention.problemsText"), "#/system", t("attention.look"));
  if (tick.outcomeUnknown > 0) add("unknown", "unknown", t("attention.unknown", { count: tick.outcomeUnknown }), t("attention.unknownText"),
    "#/payments?status=OutcomeUnknown", t("attention.decide"));
  if (tick.parked > 0) add("bad", "warn", t("attention.parked", { count: tick.parked }), t("attention.parkedText"), "#/processing", t("attention.release"));
  if (tick.webhooksDisabled > 0) add("bad", "webhooks", t("attention.disabled", { count: tick.webhooksDisabled }), t("attention.disabledText"), "#/webhooks", t("attention.look"));
  if (tick.webhooksFailing > 0) add("wait", "webhooks", t("attention.failing", { count: tick.webhooksFailing }), t("attention.failingText"), "#/webhooks", t("attention.look"));
  if (tick.warnings > 0) add("wait", "warn", t("attention.warnings", { count: tick.warnings }), t("attention.warningsText"), "#/system", t("attention.look"));
  if (items.length === 0) return h("p", { class: "all-well" }, badge("good", "done", t("attention.none")));
  return panel(t("attention.title"), {}, h("ul", { class: "attention" }, items));
}
