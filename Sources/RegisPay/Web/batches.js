// Batches: one action for all payments that match. The server carries them out; the pages begin, watch and stop them.

import { call, RequestError, session } from "./api.js";
import { h, replace } from "./dom.js";
import { count } from "./format.js";
import { ask, notify, timeAgo } from "./parts.js";
import { t } from "./text.js";

/// How often a running batch is asked for, in milliseconds.
const interval = 1_000;

/// Asks how many payments an action concerns, has a person confirm that number, and begins the batch. `filter` is the list's, and
/// `most` limits how many are tried. Returns whether it has begun.
export async function beginBatch(action, filter, { most, text } = {}) {
  let found;
  try {
    found = await call(`/api/v1/payments/count?${new URLSearchParams({ ...filter, action })}`);
  } catch (error) {
    notify(error.message, "bad");
    return false;
  }
  if (found.count === 0) {
    notify(t("batch.none"), "bad");
    return false;
  }
  // What a person has not seen is not tried.
  const limit = Math.min(found.count, most ?? found.count);
  const title = t(`bulk.${action}`, { count: limit });
  const values = await ask({
    title: found.complete || most ? title : t("batch.atLeast", { title }), text: [t(`bulk.${action}Text`), text].filter(Boolean).join(" "),
    confirm: title, danger: action !== "retry",
  });
  if (!values) return false;
  try {
    await call(`/api/v1/batches/${action}`, { method: "POST", body: { filter, ...(found.complete || most ? { limit } : {}) } });
    return true;
  } catch (error) {
    notify(error.message, "bad");
    return false;
  }
}

/// The batches that run, and those that ended while the page was open, each with its progress. `changed` is called when one has ended.
export function batchList(isCurrent, changed = () => {}) {
  const place = h("div", { class: "stack batches" });
  const dismissed = new Set();
  const seen = new Map();
  let timer = null;

  async function load() {
    clearTimeout(timer);
    let batches;
    try {
      ({ batches } = await call("/api/v1/batches"));
    } catch (error) {
      // The pages say by themselves that the server is away.
      if (isCurrent() && error instanceof RequestError && error.status === 0) timer = setTimeout(load, interval);
      return;
    }
    if (!isCurrent()) return;
    let hasEnded = false;
    for (const batch of batches) {
      hasEnded ||= batch.state !== "running" && seen.get(batch.id) === "running";
      if (batch.state === "running" || seen.has(batch.id)) seen.set(batch.id, batch.state);
    }
    // A restart forgets them.
    for (const id of [...seen.keys()]) if (!batches.some((batch) => batch.id === id)) seen.delete(id);
    const shown = batches.filter((batch) => seen.has(batch.id) && !dismissed.has(batch.id));
    replace(place, shown.map(card));
    if (hasEnded) changed();
    if (shown.some((batch) => batch.state === "running")) timer = setTimeout(load, interval);
  }

  function card(batch) {
    const reached = batch.accepted + batch.refused;
    const isRunning = batch.state === "running";
    const act = async () => {
      try {
        if (isRunning) await call(`/api/v1/batches/${batch.id}/stop`, { method: "POST" });
        else dismissed.add(batch.id);
      } catch (error) {
        notify(error.message, "bad");
      }
      load();
    };
    return h("section", { class: "panel progress", role: "status", data: { batch: batch.state }, "aria-label": t(`batch.${batch.action}`) },
      h("div", { class: "panel-head" }, h("div", {}, h("b", {}, t(`batch.${batch.action}`)), " ",
        h("span", { class: "soft" }, Object.entries(batch.filter).map(([name, value]) => `${t(`filter.${name}`)}: ${value}`).join(", "))),
      h("div", { class: "actions" }, (!isRunning || session.may(batch.action === "retry" ? "operate" : "write")) && h("button", { type: "button", class: "small", data: { focus: `batch-${batch.id}` },
        on: { click: act } }, t(isRunning ? "bulk.stop" : "batch.dismiss")))),
      h("progress", { max: Math.max(batch.expected ?? 0, 1), value: isRunning ? batch.expected === null ? undefined : reached : Math.max(batch.expected ?? 0, 1), "aria-label": t("bulk.progress") }),
      h("p", { class: "soft" }, t(`batch.is.${batch.state}`), " ", batch.expected === null ? t("batch.reached", { count: reached }) : t("bulk.of", { done: count(reached), count: count(batch.expected) }),
        batch.refused > 0 && ` · ${t("batch.refused", { count: batch.refused })}`, batch.actor && ` · ${t("payment.by", { name: batch.actor })}`, " · ", timeAgo(batch.endedAt ?? batch.startedAt),
        batch.reason && ` · ${batch.reason}`),
      batch.refusals.length > 0 && h("ul", { class: "rows" }, batch.refusals.map((refusal) => h("li", {}, h("b", { class: "number" }, count(refusal.payments)), h("span", { class: "reason" }, refusal.reason)))));
  }

  load();
  return { place, load, watch: async () => {
    // One that ends within moments is shown as well.
    try {
      const { batches } = await call("/api/v1/batches");
      if (batches.length > 0) seen.set(batches[0].id, "running");
    } catch {
      // `load` meets the same.
    }
    await load();
  } };
}
