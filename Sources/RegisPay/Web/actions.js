// What persons have commanded and changed: an audit log.

import { call, session } from "./api.js";
import { h, replace } from "./dom.js";
import { duration, money, percent, statusText, time } from "./format.js";
import { empty, failed, loading, moment, panel, table } from "./parts.js";
import { t } from "./text.js";

export async function show(root, { query, isCurrent }) {
  const before = /^[0-9]{1,15}$/.test(query.get("before") ?? "") ? query.get("before") : null;
  const place = h("div", {}, loading(8));
  const pager = h("div", { class: "pager" });
  replace(root, h("div", { class: "page-head" }, h("h1", { tabIndex: -1 }, t("page.actions"))), panel(t("actions.title"), { note: t("actions.note") }, place, pager));

  async function load() {
    const events = [];
    let next = before;
    // A page that found too little in its time is continued, some times.
    for (let round = 0; round < 20 && events.length < 50; round += 1) {
      const page = await call(`/api/v1/actions?${new URLSearchParams({ limit: "50", ...(next === null ? {} : { before: String(next) }) })}`);
      if (!isCurrent()) return;
      events.push(...page.events);
      next = page.next;
      if (next === null) break;
    }
    replace(place, events.length === 0 ? empty(t("actions.none"), t(next === null ? "actions.noneText" : "actions.noneHere")) : h("div", { class: "scroll" }, table(t("actions.title"), [
      { title: t("actions.time"), class: "brief", cell: (event) => moment(event.timestamp) },
      { title: t("actions.who"), class: "brief", cell: (event) => event.metadata?.actor ? h("span", { class: "reason" }, h("b", {}, event.metadata.actor), event.metadata.actorKey && h("span", { class: "soft" }, ` (${event.metadata.actorKey})`)) : h("span", { class: "soft" }, t("actions.nobody")) },
      { title: t("actions.what"), class: "brief", cell: (event) => t(isOperators(event) ? `operator.${event.data?.action}` : `event.${event.type}`) },
      { title: t("actions.subject"), class: "id", cell: subject },
      { title: t("payment.note"), class: "wide", cell: (event) => h("span", { class: "reason soft" }, about(event)) },
    ], events, { kind: "action-rows" })));
    replace(pager, h("span", {}), h("div", { class: "actions" }, before !== null && h("a", { class: "button small", href: "#/actions" }, t("actions.newest")),
      next !== null && h("a", { class: "button small", href: `#/actions?before=${next}`, data: { focus: "next" } }, t("actions.older"))));
  }

  try {
    await load();
  } catch (error) {
    if (isCurrent() && error.status !== 401) replace(place, failed(error, () => load().catch((again) => replace(place, failed(again)))));
  }
  return { refresh: async () => { if (before === null) await load(); } };
}

const isOperators = (event) => event.type === "OperatorActed";

/// A payment, or what else the action was done to.
function subject(event) {
  if (isOperators(event)) {
    const id = event.data?.subject ?? "";
    const name = h("code", { title: id }, id.length > 16 ? `${id.slice(0, 11)}…` : id);
    return id.startsWith("we_") && session.may("operate") ? h("a", { href: `#/webhooks?id=${encodeURIComponent(id)}` }, name) : name;
  }
  return h("a", { href: `#/payments/${event.stream.slice(4)}`, class: "row-link", data: { focus: String(event.offset) } }, h("code", {}, event.stream.slice(4, 17)));
}

function about(event) {
  if (event.data?.action === "faults-changed" && !event.data.details) return t("preset.well");
  if (isOperators(event)) return Object.entries(event.data?.details ?? {}).filter(([, value]) => value !== null)
    .map(([name, value]) => name === "faults" ? faultsText(value) : `${detailName(name)}: ${plain(value, name)}`).join(", ");
  const data = event.data ?? {};
  const texts = [];
  if (data.amount) texts.push(data.currency ? money(data.amount, data.currency) : String(data.amount));
  if (data.step) texts.push(t(`step.${data.step}`));
  if (data.refund) texts.push(t("payment.refundNumber", { number: data.refund }));
  if (data.outcome) texts.push(t(data.outcome === "happened" ? "resolve.happened" : "resolve.didNotHappen"));
  if (data.reason) texts.push(data.reason);
  return texts.join(", ");
}

const detailName = (name) => t(`detail.${name}`) === `detail.${name}` ? name : t(`detail.${name}`);

/// What goes wrong at a simulator, as its page names it.
function faultsText(faults) {
  const statuses = t("fault.statuses", { statuses: (faults.failStatuses ?? []).join(", ") });
  const texts = ["failBefore", "failAfter", "dropBefore", "dropAfter", "decline"].filter((name) => faults[name] > 0)
    .map((name) => `${t(`fault.${name}`)} ${percent(faults[name])}${name.startsWith("fail") ? ` ${statuses}` : ""}`);
  for (const name of ["fixed", "exponentialMean"]) if (faults.delay?.[name] > 0) texts.push(`${t(`fault.delay.${name}`)} ${duration(faults.delay[name])}`);
  for (const name of ["failFrom", "declineFrom"]) if (faults[name] !== null && faults[name] !== undefined) texts.push(t(`fault.${name}`, { amount: faults[name] }));
  return texts.length === 0 ? t("preset.well") : texts.join("; ");
}

/// A value of the details in a line of text.
function plain(value, name) {
  if (Array.isArray(value)) return value.map((part) => plain(part)).join(", ");
  if (typeof value === "boolean") return t(value ? "yes" : "no");
  if (name === "action") return t(`action.${value}`);
  if (name === "status") return statusText(value);
  if (typeof value === "string") return /^\d{4}-\d\d-\d\dT/.test(value) ? time(value) : value;
  if (typeof value !== "object" || value === null) return String(value);
  const set = Object.entries(value).filter(([, part]) => part !== null);
  return set.length === 0 ? "–" : set.map(([name, part]) => `${detailName(name)} ${plain(part, name)}`).join(", ");
}
