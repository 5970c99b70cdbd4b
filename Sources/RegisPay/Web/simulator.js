// What goes wrong at the simulated PSP and notification service, as sliders and presets.

import { call, pretty, RequestError, session } from "./api.js";
import { h, icon, replace } from "./dom.js";
import { duration, percent } from "./format.js";
import { badge, failed, field, notify, panel } from "./parts.js";
import { t } from "./text.js";

const services = { psp: "/psp/api/faults", notifications: "/notifications/api/faults" };
const shares = ["failBefore", "failAfter", "dropBefore", "dropAfter", "decline"];

/// Faults by name of the preset; what is missing has its default.
const presets = {
  well: {},
  slow: { delay: { fixed: 200, exponentialMean: 800, limit: 10_000 } },
  down: { failBefore: 1, failStatuses: [503] },
  flaky: { failBefore: 0.1, failAfter: 0.05, dropAfter: 0.05, failStatuses: [500, 502, 503] },
  declining: { decline: 0.3 },
};

export async function show(root, { isCurrent }) {
  const panels = h("div", { class: "columns" });
  replace(root, h("div", { class: "page-head" }, h("h1", { tabIndex: -1 }, t("page.simulator"))), h("p", { class: "soft" }, t("simulator.text")), panels);
  for (const [service, path] of Object.entries(services)) {
    if (!session.known.simulator[service]) continue;
    panels.append(await servicePanel(service, path, isCurrent));
  }
  if (session.known.simulator.psp) panels.append(ledgerPanel(isCurrent));
}

async function servicePanel(service, path, isCurrent) {
  const mayChange = session.may("operate");
  const place = h("div", { class: "stack" });
  const section = panel(t(`service.${service}`), {}, place);
  let faults = await call(path);

  async function put(next) {
    try {
      faults = await call(path, { method: "PUT", body: next });
      notify(t("simulator.changed", { service: t(`service.${service}`) }));
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      notify(error.message, "bad");
    }
    if (isCurrent()) draw();
  }

  function draw() {
    const isWell = shares.every((name) => faults[name] === 0) && faults.delay.fixed === 0 && faults.delay.exponentialMean === 0 && faults.failFrom === null && faults.declineFrom === null;
    const slider = (name) => {
      const output = h("output", { class: "number" }, percent(faults[name]));
      const input = h("input", { type: "range", name, min: 0, max: 1, step: 0.01, disabled: !mayChange, data: { focus: `${service}-${name}` }, on: {
        input: () => { output.textContent = percent(Number(input.value)); }, change: () => put({ ...faults, [name]: Number(input.value) }) } });
      // After the bounds: a browser keeps a value within those it knows.
      input.value = faults[name];
      return h("div", { class: "slider" }, field(t(`fault.${name}`), input), output);
    };
    const delay = (name, most) => {
      const output = h("output", { class: "number" }, duration(faults.delay[name]));
      const input = h("input", { type: "range", min: 0, max: most, step: 50, disabled: !mayChange, data: { focus: `${service}-delay-${name}` }, on: {
        input: () => { output.textContent = duration(Number(input.value)); }, change: () => put({ ...faults, delay: { ...faults.delay, [name]: Number(input.value) } }) } });
      input.value = faults.delay[name];
      return h("div", { class: "slider" }, field(t(`fault.delay.${name}`), input), output);
    };
    replace(place, h("p", {}, isWell ? badge("good", "done", t("simulator.well")) : badge("wait", "warn", t("simulator.faulty"))),
      mayChange && h("div", { class: "actions" }, Object.entries(presets).filter(([name]) => service === "psp" || name !== "declining").map(([name, preset]) =>
        h("button", { type: "button", class: "small", data: { focus: `${service}-preset-${name}` }, on: { click: () => put(preset) } }, t(`preset.${name}`)))),
      delay("fixed", 5_000), delay("exponentialMean", 5_000), shares.filter((name) => service === "psp" || name !== "decline").map(slider),
      h("details", {}, h("summary", {}, "JSON"), h("pre", { class: "json", tabIndex: 0 }, pretty(faults))));
  }
  draw();
  return section;
}

/// Payments beside what the simulated PSP has about them: the newest, or all.
function ledgerPanel(isCurrent) {
  const place = h("div", { class: "stack" });
  const buttons = [["newest", false], ["all", true]].map(([name, isAll]) => h("button", { type: "button", class: "small", data: { focus: `ledger-${name}` }, on: { click: () => compare(isAll) } },
    icon("search", 14), t(`ledger.${name}`)));

  async function compare(isAll) {
    for (const button of buttons) button.disabled = true;
    try {
      const before = byPayment(await call("/psp/api/ledger"));
      const seen = new Set();
      const suspects = [];
      let next = "/api/v1/payments?limit=200";
      while (next !== null) {
        const page = await call(next);
        if (!isCurrent()) return;
        for (const payment of page.payments) {
          seen.add(payment.paymentId);
          if (difference(payment, before.get(payment.paymentId) ?? []).length > 0) suspects.push(payment);
        }
        replace(place, h("p", { role: "status" }, t("ledger.progress", { count: seen.size })));
        next = isAll && page.next ? `/api/v1/payments?limit=200&after=${encodeURIComponent(page.next)}` : null;
      }
      const differences = await confirmed(suspects);
      const strangers = isAll ? await withoutPayment([...before].filter(([id]) => !seen.has(id)).flatMap(([, charges]) => charges)) : [];
      if (isCurrent()) show(seen.size, before.size, [...differences, ...strangers.map(({ reference }) => ({ reference, text: t("ledger.unknown") }))]);
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      if (isCurrent()) replace(place, failed(error, () => compare(isAll)));
    } finally {
      for (const button of buttons) button.disabled = false;
    }
  }

  /// What is different between two looks at a payment that did not change: while one goes on, either side may be ahead.
  async function confirmed(suspects) {
    if (suspects.length === 0) return [];
    const ledger = byPayment(await call("/psp/api/ledger"));
    const found = [];
    for (const payment of suspects) {
      if (found.length > differenceLimit || !isCurrent()) break;
      const { version } = await call(`/api/v1/payments/${payment.paymentId}`);
      if (version === payment.version) found.push(...difference(payment, ledger.get(payment.paymentId) ?? []));
    }
    return found;
  }

  /// The charges that no payment has. The list may be some events behind the log.
  async function withoutPayment(charges) {
    const found = [];
    for (const charge of charges) {
      if (found.length > differenceLimit || !isCurrent()) break;
      try {
        if (charge.paymentId !== null) await call(`/api/v1/payments/${charge.paymentId}`);
        else found.push(charge);
      } catch (error) {
        if (error.status !== 404) throw error;
        found.push(charge);
      }
    }
    return found;
  }

  function show(count, charges, differences) {
    replace(place, h("p", { role: "status" }, t("ledger.compared", { count, charges })),
      differences.length === 0 ? h("p", {}, badge("good", "done", t("ledger.same"))) : h("ul", { class: "rows" }, differences.slice(0, differenceLimit).map(({ payment, reference, text }) =>
        h("li", {}, badge("bad", "warn", t("ledger.different")), payment ? h("a", { href: `#/payments/${payment.paymentId}` }, h("code", {}, payment.paymentId)) : h("code", {}, reference), h("span", {}, text)))),
      differences.length > differenceLimit && h("p", { class: "soft" }, t("ledger.more", { count: differenceLimit })));
  }
  return panel(t("ledger.title"), { actions: buttons, kind: "whole-row" }, h("p", { class: "soft" }, t("ledger.text")), place);
}

const byPayment = (ledger) => Map.groupBy(ledger.charges, (charge) => charge.paymentId);

/// More of them one after the other tell no more.
const differenceLimit = 200;

function difference(payment, charges) {
  const found = [];
  const add = (text) => found.push({ payment, text });
  if (charges.length > 1) add(t("ledger.twice", { count: charges.length }));
  const [charge] = charges;
  const isSettled = ["Settled", "Completed", "Refunding", "Refunded"].includes(payment.status);
  if (!charge) return isSettled || payment.status === "Created" ? [{ payment, text: t("ledger.missing") }] : [];
  if (charge.amount !== payment.amount || charge.currency !== payment.currency) add(t("ledger.amount", { theirs: `${charge.amount} ${charge.currency}`, ours: `${payment.amount} ${payment.currency}` }));
  if (isSettled && charge.status !== "settled") add(t("ledger.status", { theirs: charge.status, ours: payment.status }));
  if (payment.status !== "Refunding" && charge.refunded !== payment.refundedAmount) add(t("ledger.refunded", { theirs: `${charge.refunded} ${charge.currency}`, ours: `${payment.refundedAmount} ${payment.currency}` }));
  // While a step is going on, one of the two is ahead.
  if (charge.status === "settled" && ["Cancelled", "Declined"].includes(payment.status)) add(t("ledger.status", { theirs: charge.status, ours: payment.status }));
  return found;
}
