// Parts that several pages are made of.

import { h, icon, replace, svg } from "./dom.js";
import { ago, exactTime, money, statusText, time } from "./format.js";
import { t } from "./text.js";

/// How a status looks: its colour and its icon, so that colour alone says nothing.
const looks = {
  Initiated: ["wait", "wait"], Created: ["move", "move"], Settled: ["move", "move"], Completed: ["good", "done"],
  Declined: ["bad", "stop"], Cancelling: ["move", "move"], Cancelled: ["quiet", "stop"], Failed: ["bad", "warn"],
  OutcomeUnknown: ["unknown", "unknown"], Refunding: ["move", "refund"], Refunded: ["quiet", "refund"], Requested: ["wait", "wait"],
};

export function statusBadge(status) {
  const [tone, symbol] = looks[status] ?? ["quiet", "unknown"];
  return badge(tone, symbol, statusText(status), { status });
}

export function badge(tone, symbol, text, data = {}) {
  return h("span", { class: "badge", data: { tone, ...data } }, icon(symbol, 14), h("span", {}, text));
}

/// A time. Where the pointer rests, the exact one, local and UTC.
export function moment(text, options) {
  if (!text) return h("span", { class: "soft" }, "–");
  return h("time", { datetime: text, on: { pointerenter: titleExactly } }, time(text, options));
}

// Only when a pointer comes: most times are never asked for exactly, and a list has fifty.
function titleExactly(event) { event.currentTarget.title = exactTime(event.currentTarget.dateTime); }

/// A time as its distance from now, kept right while it is shown.
customElements.define("time-ago", class extends HTMLElement {
  connectedCallback() {
    this.show();
    this.timer = setInterval(() => this.show(), 1_000);
  }
  disconnectedCallback() { clearInterval(this.timer); }
  show() {
    const text = ago(Date.parse(this.dataset.time));
    if (this.textContent !== text) this.textContent = text;
  }
});
export const timeAgo = (text) => text ? h("time-ago", { "data-time": text, title: exactTime(text) }) : h("span", {}, "–");

export const amount = (value, currency) => h("span", { class: "amount" }, money(value, currency));

/// An id, shortened for the eye, with a button that copies all of it.
export function idText(id, { short = false, copy = true } = {}) {
  return h("span", { class: "id-text" }, h("code", { title: id }, short ? id.slice(0, 8) : id),
    copy && copyButton(id, t("copy.id")));
}

export function copyButton(text, label) {
  const button = h("button", { type: "button", class: "icon-button", "aria-label": label, title: label,
    on: { click: async (event) => {
      event.stopPropagation();
      try {
        await navigator.clipboard.writeText(typeof text === "function" ? text() : text);
        notify(t("copy.done"));
      } catch {
        // Over plain HTTP browsers offer no clipboard.
        notify(t("copy.refused"), "bad");
      }
    } } }, icon("copy", 16));
  return button;
}

let notices = null;
/// Says something in passing. Screen readers read it out.
export function notify(text, tone = "good") {
  if (!notices?.isConnected) {
    notices = h("div", { class: "notices", role: "status", "aria-live": "polite" });
    document.body.append(notices);
  }
  const notice = h("p", { class: "notice", data: { tone } }, icon(tone === "good" ? "done" : "warn", 16), text);
  notices.append(notice);
  setTimeout(() => notice.remove(), tone === "good" ? 4_000 : 8_000);
}

export const empty = (title, text, ...actions) =>
  h("div", { class: "nothing" }, h("p", { class: "nothing-title" }, title), text && h("p", {}, text), actions);

export const loading = (lines = 4) => h("div", { class: "loading", role: "status" }, h("span", { class: "unseen" }, t("loading")),
  Array.from({ length: lines }, () => h("span", { class: "bone", "aria-hidden": "true" })));

/// What went wrong and a way to try again.
export const failed = (error, again) => h("div", { class: "failed", role: "alert" }, icon("warn"),
  h("div", {}, h("p", { class: "nothing-title" }, t("error.title")), h("p", {}, error.message)),
  again && h("button", { type: "button", on: { click: again } }, t("error.again")));

export const panel = (title, { actions = [], id, note, kind = "" } = {}, ...content) => {
  const heading = id ?? "panel-" + title.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-");
  return h("section", { class: `panel ${kind}`.trim(), "aria-labelledby": heading },
    h("div", { class: "panel-head" }, h("h2", { id: heading }, title), note && h("span", { class: "soft" }, note),
      h("div", { class: "actions" }, actions)), content);
};

/// Names and values.
export const facts = (pairs) => h("dl", { class: "facts" }, pairs.filter(Boolean).map(([name, ...value]) =>
  h("div", {}, h("dt", {}, name), h("dd", {}, value))));

/// A table whose rows become cards on a narrow screen. `columns`: `{ title, class, cell(row) }`, with `sort` for one to sort by, and
/// `head()` for what stands in place of the title.
///
/// `drawn`: the rows' elements, if they are made already (`tableRow`).
export function table(caption, columns, rows, { sorted, onSort, kind = "", drawn } = {}) {
  const head = columns.map((column) => {
    const order = sorted?.name === column.sort && column.sort ? (sorted.descending ? "descending" : "ascending") : undefined;
    const content = column.sort && onSort
      ? h("button", { type: "button", class: "sort", data: { focus: `sort-${column.sort}` }, on: { click: () => onSort(column.sort) } }, column.title,
        order && icon(order === "descending" ? "down" : "up", 14))
      : column.head ? column.head()
      : column.hideTitle ? h("span", { class: "unseen" }, column.title) : column.title;
    return h("th", { scope: "col", role: "columnheader", class: column.class, "aria-sort": order }, content);
  });
  return h("table", { role: "table", class: `table ${kind}` }, h("caption", { class: "unseen" }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)),
    h("tbody", { role: "rowgroup" }, drawn ?? rows.map((row) => tableRow(columns, row))));
}

export const tableRow = (columns, row, properties = {}) => h("tr", { role: "row", ...properties }, columns.map((column) =>
  h("td", { role: "cell", class: column.class, data: { title: column.hideTitle ? "" : column.title } }, column.cell(row))));

/// Asks in a dialog. `fields`: elements with a name. Returns the form's values, or null when the person closes it.
export function ask({ title, text, fields = [], confirm, danger = false, check = () => null }) {
  return new Promise((resolve) => {
    const problem = h("p", { class: "field-error", role: "alert" });
    const button = h("button", { type: "submit", class: danger ? "danger" : "primary" }, confirm);
    const form = h("form", { method: "dialog", on: { submit: (event) => {
      event.preventDefault();
      const values = Object.fromEntries(new FormData(form));
      const message = check(values);
      problem.textContent = message ?? "";
      if (message) return;
      dialog.close();
      resolve(values);
    } } }, h("h2", { id: "dialog-title" }, title), text && h("p", {}, text), fields, problem,
      h("div", { class: "dialog-actions" }, h("button", { type: "button", on: { click: () => dialog.close() } }, t("cancel")), button));
    const dialog = h("dialog", { "aria-labelledby": "dialog-title", on: { close: () => { dialog.remove(); resolve(null); } } }, form);
    document.body.append(dialog);
    dialog.showModal();
    // Enter at once must not do what can't be undone.
    (form.querySelector("input, select, textarea") ?? (danger ? form.querySelector(".dialog-actions button") : button)).focus();
  });
}

let fieldNumber = 0;
export function field(label, control, { hint } = {}) {
  const id = control.id || `field-${fieldNumber += 1}`;
  control.id = id;
  const error = h("p", { class: "field-error", id: `${id}-error` });
  const note = hint && h("p", { class: "field-hint", id: `${id}-hint` }, hint);
  control.setAttribute("aria-describedby", note ? `${id}-hint ${id}-error` : `${id}-error`);
  return h("div", { class: "field" }, h("label", { for: id }, label), control, note, error);
}

/// Shows the messages of a refused form at their fields, and leads to the first.
export function showFieldErrors(form, errors) {
  let first = null;
  const rest = [];
  for (const control of form.querySelectorAll("[name]")) {
    const messages = errors[control.name] ?? [];
    const place = form.querySelector(`#${CSS.escape(control.id)}-error`);
    if (place) place.textContent = messages.join(". ");
    control.setAttribute("aria-invalid", String(messages.length > 0));
    if (messages.length > 0) first ??= control;
  }
  for (const [name, messages] of Object.entries(errors)) {
    if (!form.querySelector(`[name="${CSS.escape(name)}"]`)) rest.push(...messages);
  }
  first?.focus();
  return rest.join(". ");
}

/// One number with its name, and what it means beside it.
export const tile = (name, value, { note, tone, href } = {}) => h(href ? "a" : "div", { class: "tile", href, data: { tone: tone ?? "" } },
  h("span", { class: "tile-name" }, name), h("span", { class: "tile-value" }, value), note && h("span", { class: "tile-note" }, note));

/// Lines over time. `series`: `{ name, values, tone }`; a null is a gap. `times`: milliseconds. `show` makes a value a text.
export function chart({ title, times, series, show, height = 120 }) {
  const width = 600;
  const room = { left: 4, right: 4, top: 8, bottom: 4 };
  const all = series.flatMap((line) => line.values.filter((value) => value !== null && value !== undefined));
  const most = niceMost(Math.max(0, ...all));
  const x = (number) => room.left + (times.length < 2 ? 0 : number / (times.length - 1)) * (width - room.left - room.right);
  const y = (value) => height - room.bottom - (value / most) * (height - room.top - room.bottom);
  const path = (values) => {
    let text = "";
    let isDown = false;
    values.forEach((value, number) => {
      if (value === null || value === undefined) { isDown = false; return; }
      text += `${isDown ? "L" : "M"}${x(number).toFixed(1)} ${y(value).toFixed(1)}`;
      // Between two gaps a line would have no length.
      if (!isDown && (values[number + 1] ?? null) === null) text += "m-3 0h6";
      isDown = true;
    });
    return text;
  };
  const rule = svg("line", { class: "chart-rule", y1: room.top, y2: height - room.bottom, visibility: "hidden" });
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", class: "chart-picture", "aria-hidden": "true" },
    [0.5, 1].map((part) => svg("line", { class: "chart-grid", x1: 0, x2: width, y1: y(most * part), y2: y(most * part) })),
    series.map((line, number) => svg("path", { class: "chart-line", "data-line": number, "data-tone": line.tone, d: path(line.values) })), rule);
  const last = (line) => line.values.findLast((value) => value !== null && value !== undefined) ?? null;
  const legend = h("ul", { class: "chart-legend" });
  const say = (number) => replace(legend, series.map((line, at) => h("li", { data: { tone: line.tone, line: at } }, h("span", {}, line.name), " ",
    h("b", {}, show(number === null ? last(line) : line.values[number] ?? null)))),
  h("li", { class: "soft" }, number === null ? t("chart.now") : time(times[number])));
  say(null);
  const move = (event) => {
    const box = picture.getBoundingClientRect();
    const number = Math.round(Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * (times.length - 1));
    rule.setAttribute("visibility", "visible");
    rule.setAttribute("x1", x(number));
    rule.setAttribute("x2", x(number));
    say(number);
  };
  const leave = () => { rule.setAttribute("visibility", "hidden"); say(null); };
  return h("figure", { class: "chart", on: { pointermove: move, pointerleave: leave } },
    h("figcaption", {}, h("span", {}, title), h("span", { class: "soft" }, show(all.length ? most : null))), h("div", { class: "chart-place" }, picture, all.length === 0 && h("p", { class: "soft" }, t("chart.none"))), legend);
}

/// 1, 2 or 5 times a power of ten, at least the value.
function niceMost(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * power).find((most) => most >= value);
}
