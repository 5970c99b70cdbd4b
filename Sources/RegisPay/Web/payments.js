// The list of payments: search, filters, order, pages, choice of columns, and actions on those that are selected.

import { batchList, beginBatch } from "./batches.js";
import { call, command, parse, RequestError, send, session } from "./api.js";
import { h, icon, replace } from "./dom.js";
import { count, isPositive, money, time } from "./format.js";
import { amount, ask, copyButton, empty, field, idText, loading, moment, notify, panel, statusBadge, table, tableRow } from "./parts.js";
import { setSetting, setting } from "./settings.js";
import { t } from "./text.js";

const statuses = ["Initiated", "Created", "Settled", "Completed", "Failed", "OutcomeUnknown", "Declined", "Cancelling", "Cancelled", "Refunding", "Refunded"];
const parts = ["none", "part", "all"];
const currencies = ["GBP", "EUR", "USD"];
const filters = { status: statuses, currency: currencies, refunded: parts };
/// Filters whose values a person writes.
const written = ["search", "amount", "createdFrom", "createdBefore", "step", "reason"];
const steps = ["create", "settle", "notify", "cancel", "refund"];
const allFilters = [...written, ...Object.keys(filters)];
const pageSize = 50;
const markedLimit = 10;
const sliceMilliseconds = 5;
/// How long the list stays as it is after most rows were new: nobody reads one that is another each second.
const floodMilliseconds = 2_500;

const columns = {
  id: { title: () => t("payment.id"), class: "id", cell: (payment) => h("a", { href: `#/payments/${payment.paymentId}`, class: "row-link", data: { focus: payment.paymentId } },
    h("code", {}, payment.paymentId.slice(0, 13))), always: true },
  amount: { title: () => t("payment.amount"), class: "number money", sort: "amount", cell: (payment) => amount(payment.amount, payment.currency), always: true },
  status: { title: () => t("payment.status"), class: "status", cell: (payment) => statusBadge(payment.status), always: true },
  note: { title: () => t("payment.note"), class: "wide", cell: (payment) => note(payment) },
  reference: { title: () => t("payment.reference"), class: "labelled wide", cell: (payment) => payment.paymentReference ? idText(payment.paymentReference, { copy: false }) : "" , off: true },
  refunded: { title: () => t("payment.refunded"), class: "number labelled", cell: (payment) => isPositive(payment.refundedAmount) ? amount(payment.refundedAmount, payment.currency) : "", off: true },
  created: { title: () => t("payment.created"), class: "created", sort: "created", cell: (payment) => moment(payment.createdAt) },
  updated: { title: () => t("payment.updated"), class: "labelled", sort: "updated", cell: (payment) => moment(payment.updatedAt), off: true },
};

export function note(payment) {
  const texts = [];
  const trouble = payment.unknown ?? payment.failure ?? payment.waiting;
  if (payment.refundingAmount) texts.push(t("payment.refunding", { amount: money(payment.refundingAmount, payment.currency) }));
  if (isPositive(payment.refundedAmount)) texts.push(t("payment.isRefunded", { amount: money(payment.refundedAmount, payment.currency) }));
  if (payment.waiting && !payment.failure && !payment.unknown) texts.push(t("payment.waits", { step: t(`step.${payment.waiting.step}`), attempts: payment.waiting.attempts }));
  if (trouble) texts.push(trouble.reason);
  if (payment.incomplete || payment.newerEvent) texts.push(t("payment.outdated"));
  return texts.length ? h("span", { class: "reason soft" }, texts.join("; ")) : "";
}

function shownColumns() {
  const chosen = setting("columns", null);
  const names = chosen === null ? Object.keys(columns).filter((name) => !columns[name].off) : chosen.split(",");
  return Object.entries(columns).filter(([name, column]) => column.always || names.includes(name))
    .map(([name, column]) => ({ ...column, name, title: column.title() }));
}

export async function show(root, { query, isCurrent }) {
  const wanted = Object.fromEntries([...query].filter(([name]) => ["sort", "after", ...allFilters].includes(name)));
  const chosen = new Set();
  let page = null;
  let known = null;
  let isPaused = false;
  /// All that match are selected, not only those on the page.
  let isAll = false;

  const address = (changes) => {
    const next = new URLSearchParams(Object.entries({ ...wanted, ...changes }).filter(([, value]) => value));
    return `#/payments${[...next].length ? "?" + next : ""}`;
  };
  const go = (changes) => { location.hash = address({ after: undefined, ...changes }); };

  const select = (name) => h("select", { "aria-label": t(`filter.${name}`), data: { focus: `filter-${name}` }, on: { change: (event) => go({ [name]: event.target.value }) } },
    h("option", { value: "" }, t(`filter.${name}`)),
    filters[name].map((value) => h("option", { value, selected: wanted[name] === value }, label(name, value))));
  const chips = allFilters.filter((name) => wanted[name]).map((name) => h("span", { class: "chip" },
    h("span", {}, `${t(`filter.${name}`)}: ${label(name, wanted[name])}`),
    h("button", { type: "button", "aria-label": t("filter.remove", { name: t(`filter.${name}`) }), on: { click: () => go({ [name]: undefined }) } }, icon("bad", 12))));
  const pause = h("button", { type: "button", class: "small", "aria-pressed": "false", on: { click: () => {
    isPaused = !isPaused;
    pause.setAttribute("aria-pressed", String(isPaused));
    replace(pause, icon(isPaused ? "play" : "pause", 14), t(isPaused ? "payments.resume" : "payments.pause"));
    if (!isPaused) load();
  } } }, icon("pause", 14), t("payments.pause"));
  const place = h("div", {}, loading(8));
  const pager = h("div", { class: "pager" });
  const bar = h("div", {});
  const batches = batchList(isCurrent, () => { load().catch(() => {}); });
  const state = h("p", { class: "soft", role: "status" });
  replace(root, h("div", { class: "page-head" }, h("h1", { tabIndex: -1 }, t("page.payments")),
    h("div", { class: "actions" }, session.may("write") && h("a", { class: "button primary", href: "#/create" }, icon("add", 16), t("page.create")))),
  h("section", { class: "panel", "aria-label": t("page.payments") },
    h("div", { class: "panel-head" }, h("div", { class: "filters" }, Object.keys(filters).map(select),
      h("button", { type: "button", class: "small", data: { focus: "more-filters" }, on: { click: moreFilters } }, t("filter.more")), chips),
      h("div", { class: "actions" }, pause, h("button", { type: "button", class: "small", on: { click: chooseColumns } }, t("payments.columns")),
        h("button", { type: "button", class: "small", data: { focus: "export" }, on: { click: exportAll } }, t("payments.export")))),
    batches.place, bar, place, state));

  /// Only the filters, without order and page.
  const filter = () => Object.fromEntries(allFilters.filter((name) => wanted[name]).map((name) => [name, wanted[name]]));

  async function moreFilters() {
    const step = h("select", { name: "step" }, h("option", { value: "" }, t("filter.any")), steps.map((value) => h("option", { value, selected: wanted.step === value }, t(`step.${value}`))));
    const values = await ask({
      title: t("filter.more"), confirm: t("apply"),
      fields: [
        field(t("filter.amount"), h("input", { name: "amount", inputMode: "decimal", value: wanted.amount ?? "", placeholder: "12.50" })),
        field(t("filter.createdFrom"), h("input", { name: "createdFrom", type: "datetime-local", step: "1", value: localTime(wanted.createdFrom) }), { hint: t("filter.timeHint") }),
        field(t("filter.createdBefore"), h("input", { name: "createdBefore", type: "datetime-local", step: "1", value: localTime(wanted.createdBefore) })),
        field(t("filter.step"), step, { hint: t("filter.stepHint") }),
        field(t("filter.reason"), h("input", { name: "reason", value: wanted.reason ?? "", maxLength: 500 }), { hint: t("filter.reasonHint") }),
      ],
      check: (values) => values.amount && !/^\d+([.,]\d{1,2})?$/.test(values.amount.trim()) ? t("refund.notNumber") : null,
    });
    if (!values) return;
    go({
      amount: values.amount.trim().replace(",", ".") || undefined, createdFrom: utcTime(values.createdFrom), createdBefore: utcTime(values.createdBefore),
      step: values.step || undefined, reason: values.reason || undefined,
    });
  }

  function chooseColumns() {
    const names = new Set(shownColumns().map((column) => column.name));
    const boxes = Object.entries(columns).map(([name, column]) => h("label", { class: "check" },
      h("input", { type: "checkbox", name, checked: names.has(name), disabled: column.always }), column.title()));
    ask({ title: t("payments.columns"), fields: boxes, confirm: t("apply") }).then((values) => {
      if (!values) return;
      setSetting("columns", Object.keys(columns).filter((name) => columns[name].always || name in values).join(","));
      draw();
    });
  }

  async function exportAll() {
    const format = h("select", { name: "format" }, h("option", { value: "csv" }, "CSV"), h("option", { value: "jsonl" }, "JSON Lines"));
    const values = await ask({ title: t("payments.export"), text: chips.length ? t("payments.exportFiltered") : t("payments.exportAll"),
      fields: [field(t("payments.format"), format)], confirm: t("payments.export") });
    if (!values) return;
    notify(t("payments.exporting"));
    try {
      const { after, ...filtered } = wanted;
      const response = await send(`/api/v1/payments/export?${new URLSearchParams({ ...filtered, format: values.format })}`);
      if (!response.ok) throw new RequestError(response.status, parse(await response.text()).detail);
      // A link can't send the key. The browser keeps a long file on its disk.
      const url = URL.createObjectURL(await response.blob());
      h("a", { href: url, download: `payments.${values.format}` }).click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
    } catch (error) {
      notify(error instanceof RequestError ? error.message : t("payments.exportBroken"), "bad");
    }
  }

  /// The rows that the table has, by payment, each with what it shows; and what they all depend on.
  let drawn = new Map();
  let look = "";
  let drawing = 0;
  let staysUntil = 0;
  let later = null;

  /// A row's element: the one that the table has, if it shows the same.
  function rowOf(shown, row) {
    const text = JSON.stringify(row);
    const known = drawn.get(row.paymentId);
    const made = known?.text === text ? known : { text, element: tableRow(shown, row, { data: { payment: row.paymentId, status: row.status } }) };
    drawn.set(row.paymentId, made);
    return made.element;
  }

  /// Changes the rows in the table to these, and leaves those that stay. Makes new ones for some milliseconds of a frame at a time,
  /// so that the page stays smooth while all of them change.
  ///
  /// Returns false, and has changed nothing, when another drawing has begun meanwhile, or a row was selected, which must not move away.
  async function changeRows(body, shown, rows, marked) {
    const mine = drawing += 1;
    const selected = chosen.size;
    let began = performance.now();
    for (const row of rows) {
      rowOf(shown, row);
      if (performance.now() - began < sliceMilliseconds) continue;
      await new Promise((resolve) => requestAnimationFrame(resolve));
      if (mine !== drawing || !isCurrent() || chosen.size > selected) return false;
      began = performance.now();
    }
    const wantedIds = new Set(rows.map((row) => row.paymentId));
    const stays = (element) => wantedIds.has(element.dataset.payment) && drawn.get(element.dataset.payment).element === element;
    for (const [number, row] of rows.entries()) {
      const { element } = drawn.get(row.paymentId);
      element.dataset.new = String(marked.has(row.paymentId));
      const there = body.children[number];
      if (there === element) continue;
      if (there && !stays(there)) there.replaceWith(element);
      else body.insertBefore(element, there ?? null);
    }
    while (body.children.length > rows.length) body.lastElementChild.remove();
    return true;
  }

  async function load() {
    const parameters = new URLSearchParams({ limit: String(pageSize), ...wanted });
    const next = await call(`/api/v1/payments?${parameters}`);
    if (!isCurrent()) return;
    await draw(next);
  }

  async function draw(next = page) {
    if (!next) return;
    const rows = next.payments;
    const ids = new Set(rows.map((row) => row.paymentId));
    const arrived = rows.filter((row) => known !== null && !known.has(row.paymentId)).map((row) => row.paymentId);
    // Where most rows are new, marking them tells nothing, and each marked cell is painted again for every frame.
    const marked = new Set(arrived.length > markedLimit ? [] : arrived);
    const sorted = wanted.sort ?? "-created";
    const all = () => h("input", { type: "checkbox", checked: rows.every((row) => chosen.has(row.paymentId)), "aria-label": t("payments.selectAll"), data: { focus: "select-all" },
      on: { change: (event) => {
        for (const row of page.payments) if (event.target.checked) chosen.add(row.paymentId); else chosen.delete(row.paymentId);
        draw();
      } } });
    const select = { name: "select", class: "select", hideTitle: true, title: t("payments.select"), head: all, cell: (row) => h("input", { type: "checkbox", checked: chosen.has(row.paymentId),
      "aria-label": t("payments.selectOne", { id: row.paymentId.slice(0, 8) }), data: { focus: `select-${row.paymentId}` }, on: { change: (event) => {
        if (event.target.checked) chosen.add(row.paymentId); else chosen.delete(row.paymentId);
        isAll = false;
        place.querySelector("[data-focus=select-all]").checked = page.payments.every((row) => chosen.has(row.paymentId));
        drawBar();
      } } }) };
    const canAct = session.may("write") || session.may("operate");
    const shown = [...(canAct ? [select] : []), ...shownColumns()];
    // The day, because a time of today is shown without it.
    const newLook = `${shown.map((column) => column.name).join()} ${new Date().toDateString()}`;
    const body = look === newLook && rows.length > 0 ? place.querySelector("tbody") : null;
    if (body) {
      if (!await changeRows(body, shown, rows, marked)) return;
      drawn = new Map(rows.map((row) => [row.paymentId, drawn.get(row.paymentId)]));
    } else {
      drawing += 1;
    }
    page = next;
    staysUntil = arrived.length > rows.length / 2 ? performance.now() + floodMilliseconds : 0;
    for (const id of chosen) if (!ids.has(id)) chosen.delete(id);
    if (!rows.every((row) => chosen.has(row.paymentId))) isAll = false;
    if (rows.length === 0) {
      look = "";
      const isFiltered = chips.length > 0;
      replace(place, isFiltered ? empty(t("payments.noMatch"), t("payments.noMatchText"), h("a", { class: "button", href: "#/payments" }, t("payments.clear")))
        : empty(t("payments.none"), t("payments.noneText"), session.may("write") && h("a", { class: "button primary", href: "#/create" }, t("page.create"))));
    } else if (body) {
      for (const row of rows) {
        const box = drawn.get(row.paymentId).element.querySelector("input[type=checkbox]");
        if (box) box.checked = chosen.has(row.paymentId);
      }
      const box = place.querySelector("[data-focus=select-all]");
      if (box) box.checked = rows.every((row) => chosen.has(row.paymentId));
      replace(pager, turns());
    } else {
      look = newLook;
      drawn.clear();
      replace(pager, turns());
      replace(place, h("div", { class: "scroll" }, table(t("page.payments"), shown, rows, {
        drawn: rows.map((row) => rowOf(shown, row)),
        sorted: { name: sorted.replace("-", ""), descending: sorted.startsWith("-") },
        kind: "payment-rows",
        onSort: (name) => go({ sort: sorted === `-${name}` ? name : `-${name}` }),
      })), pager);
    }
    known = new Set([...(known ?? []), ...ids]);
    state.textContent = page.complete ? "" : t("payments.incomplete");
    drawBar();
  }

  const turns = () => [h("span", { class: "soft" }, wanted.after ? "" : t(page.next ? "payments.first" : "payments.all", { count: page.payments.length })),
    h("div", { class: "actions" }, wanted.after && h("a", { class: "button small", href: address({ after: undefined }) }, t("payments.toFirst")),
      wanted.after && h("button", { type: "button", class: "small", on: { click: () => history.back() } }, t("payments.previous")),
      page.next && h("a", { class: "button small", href: address({ after: page.next }), data: { focus: "next" } }, t("payments.next")))];

  function drawBar() {
    if (chosen.size === 0) return replace(bar);
    if (isAll) return drawAllBar();
    const rows = page.payments.filter((row) => chosen.has(row.paymentId));
    const hasMore = rows.length === page.payments.length && (page.next || wanted.after);
    const act = (name, scope, fits, danger) => {
      const fitting = rows.filter(fits);
      return session.may(scope) && h("button", { type: "button", class: danger ? "small danger" : "small", disabled: fitting.length === 0,
        on: { click: () => actOn(name, fitting) } }, `${t(`action.${name}`)} (${count(fitting.length)})`);
    };
    replace(bar, h("div", { class: "selection" }, h("span", {}, t("payments.selected", { count: chosen.size })), h("div", { class: "actions" },
      hasMore && h("button", { type: "button", class: "small", data: { focus: "select-matching" }, on: { click: () => { isAll = true; drawBar(); } } }, t("payments.selectMatching")),
      act("retry", "operate", (row) => row.status === "Failed"),
      act("cancel", "write", (row) => ["Initiated", "Created"].includes(row.status), true),
      act("refund", "write", (row) => ["Settled", "Completed"].includes(row.status) && !isPositive(row.refundedAmount) && !row.refundingAmount, true),
      copyButton(() => rows.map((row) => row.paymentId).join("\n"), t("payments.copyIds")),
      h("button", { type: "button", class: "small quiet", on: { click: () => { chosen.clear(); draw(); } } }, t("payments.unselect")))));
  }

  function drawAllBar() {
    const act = (name, scope, danger) => session.may(scope) && h("button", { type: "button", class: danger ? "small danger" : "small", data: { focus: `all-${name}` },
      on: { click: () => actOnAll(name) } }, t(`action.${name}`));
    replace(bar, h("div", { class: "selection" }, h("span", {}, t(chips.length > 0 ? "payments.allMatching" : "payments.allSelected")), h("div", { class: "actions" },
      act("retry", "operate"), act("cancel", "write", true), act("refund", "write", true),
      h("button", { type: "button", class: "small quiet", on: { click: () => { chosen.clear(); isAll = false; draw(); } } }, t("payments.unselect")))));
  }

  async function actOnAll(name) {
    // A release concerns parked payments only: the number to confirm is theirs.
    const begun = await beginBatch(name, name === "retry" && !wanted.status ? { ...filter(), status: "Failed" } : filter());
    if (!begun) return;
    chosen.clear();
    isAll = false;
    draw();
    await batches.watch();
  }

  async function actOn(name, rows) {
    const values = await ask({ title: t(`bulk.${name}`, { count: rows.length }), text: t(`bulk.${name}Text`), confirm: t(`bulk.${name}`, { count: rows.length }), danger: name !== "retry" });
    if (!values) return;
    const { done, refused } = await carryOut(rows, (row) => act(name, row), bar);
    chosen.clear();
    await load();
    notify(refused.length === 0 ? t("bulk.done", { count: done }) : t("bulk.partly", { count: done, refused: refused.length, reason: refused[0].message }),
      refused.length === 0 ? "good" : "bad");
  }

  async function refresh(isAsked) {
    // A page further on stays as it is, and rows don't move under a hand.
    if (isPaused || wanted.after || chosen.size > 0 || place.querySelector(".row-link:focus")) return;
    const left = staysUntil - performance.now();
    if (isAsked || left <= 0) return load();
    later ??= setTimeout(() => {
      later = null;
      // The connection's state says when the server is away.
      if (isCurrent()) refresh(false).catch(() => {});
    }, left);
  }

  await load();
  return { refresh, close: () => clearTimeout(later) };
}

function act(name, row) {
  const path = `/api/v1/payments/${row.paymentId}`;
  return name === "refund" ? command(`${path}/refunds`, {}) : command(`${path}/${name}`);
}

/// Carries something out for each row, one after the other, with a bar that shows how far it is and a button that stops it.
export async function carryOut(rows, one, place) {
  let stopped = false;
  let done = 0;
  const refused = [];
  const progress = h("progress", { max: rows.length, value: 0, "aria-label": t("bulk.progress") });
  const text = h("span", { class: "soft" });
  replace(place, h("div", { class: "progress" }, progress, h("div", { class: "actions" }, text,
    h("button", { type: "button", class: "small", on: { click: () => { stopped = true; } } }, t("bulk.stop")))));
  for (const row of rows) {
    if (stopped) break;
    try {
      await one(row);
      done += 1;
    } catch (error) {
      refused.push(error);
      // Without an answer the rest would fail too.
      if (error.status === 0 || error.status === 401) break;
    }
    progress.value = done + refused.length;
    text.textContent = t("bulk.of", { done: done + refused.length, count: rows.length });
  }
  replace(place);
  return { done, refused };
}

/// A time as an input of local times has it.
function localTime(text) {
  if (!text || Number.isNaN(Date.parse(text))) return "";
  const date = new Date(text);
  return new Date(date - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

const utcTime = (local) => local ? new Date(local).toISOString() : undefined;

function label(name, value) {
  if (name === "step") return t(`step.${value}`);
  // An address may have any text there; the server refuses it.
  if ((name === "createdFrom" || name === "createdBefore") && !Number.isNaN(Date.parse(value))) return time(value);
  if (name === "status") return t(`status.${value}`);
  if (name === "refunded") return t(`refunded.${value}`);
  return value;
}
