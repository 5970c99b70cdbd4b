// The server itself: its version, its health with reasons, what this key may do, and how much it logs.

import { call, RequestError, send, session } from "./api.js";
import { h, icon, replace } from "./dom.js";
import { bytes, count, duration } from "./format.js";
import { ask, badge, copyButton, empty, facts, failed, field, idText, loading, moment, notify, panel, table } from "./parts.js";
import { t } from "./text.js";

const levels = ["trace", "debug", "info", "notice", "warning", "error", "critical"];

export async function show(root, { isCurrent }) {
  const health = h("div", {}, loading(2));
  const { known } = session;
  replace(root, h("div", { class: "page-head" }, h("h1", { tabIndex: -1 }, t("page.system"))),
    h("div", { class: "columns" }, panel(t("system.server"), {}, facts([
      [t("system.version"), known.version], [t("system.store"), idText(known.storeId)],
      [t("system.key"), known.requiresKey ? known.key ?? "–" : t("system.open")],
      [t("system.scopes"), known.scopes.join(", ")],
    ]), h("p", { class: "links" }, h("a", { href: "/openapi.json" }, "OpenAPI"), !known.requiresKey && h("a", { href: "/metrics" }, t("system.metrics")))),
    h("div", { class: "stack" }, panel(t("system.health"), {}, health), session.may("operate") ? await logging() : null)), session.may("operate") ? [keys(isCurrent), settings(isCurrent)] : null);

  async function load() {
    const response = await send("/health");
    const lines = (await response.text()).split("\n").filter(Boolean);
    if (!isCurrent()) return;
    const [word, ...reasons] = lines;
    replace(health, h("p", {}, word === "Healthy" ? badge("good", "done", t("system.healthy")) : badge("bad", "warn", t("system.unhealthy"))),
      reasons.length > 0 && h("ul", { class: "attention" }, reasons.map((reason) => {
        const isWarning = reason.startsWith("warning: ");
        return h("li", { data: { tone: isWarning ? "wait" : "bad" } }, h("b", {}, icon("warn")), h("p", {}, reason.replace(/^warning: /, "")));
      })));
  }
  await load();
  return { tick: () => { load().catch(() => {}); } };
}

async function logging() {
  const now = await call("/api/v1/logging");
  const select = h("select", { on: { change: async () => {
    try {
      await call("/api/v1/logging", { method: "PUT", body: { level: select.value } });
      notify(t("system.levelChanged", { level: select.value }));
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      notify(error.message, "bad");
    }
  } } }, levels.map((level) => h("option", { selected: level === now.level }, level)));
  return panel(t("system.logging"), {}, field(t("system.level"), select, { hint: t("system.levelHint") }));
}

/// What the server was set to, and where each value comes from.
function settings(isCurrent) {
  const place = h("div", { data: { part: "settings" } }, loading());
  let isAll = false;
  let found = null;
  const choose = h("label", { class: "check" }, h("input", { type: "checkbox", data: { focus: "all-settings" }, on: { change: (event) => { isAll = event.target.checked; if (found) show(); } } }), t("settings.all"));

  async function load() {
    try {
      const [all, logging] = await Promise.all([call("/api/v1/settings"), call("/api/v1/logging")]);
      found = { ...all, level: logging.level };
      if (isCurrent()) show();
    } catch (error) {
      if (isCurrent() && error.status !== 401) replace(place, failed(error, load));
    }
  }

  function show() {
    const variables = found.variables.map((variable) => ({ ...variable, summary: "", unit: null, source: t("settings.variable"), reloadable: false }));
    const rows = [...found.settings.filter((setting) => isAll || !setting.isDefault), ...variables];
    if (rows.length === 0) return replace(place, empty(t("settings.none"), t("settings.noneText")));
    replace(place, h("div", { class: "scroll" }, table(t("settings.title"), [
      { title: t("settings.name"), class: "wide", cell: (setting) => h("div", {}, h("b", {}, h("code", { class: "reason" }, setting.name)), setting.summary && h("p", { class: "soft", lang: "en" }, setting.summary)) },
      { title: t("settings.value"), class: "wide labelled", cell: (setting) => h("span", {}, value(setting),
        setting.name === "log-level" && setting.value !== found.level && h("span", { class: "soft" }, ` ${t("settings.now", { value: found.level })}`)) },
      { title: t("settings.source"), class: "wide labelled", cell: (setting) => h("span", { class: "reason soft" }, setting.source === "default" ? t("settings.default") : setting.source ?? "–", setting.reloadable && ` (${t("settings.reloadable")})`) },
    ], rows)));
  }

  load();
  return panel(t("settings.title"), { actions: [choose] }, place);
}

function value(setting) {
  if (setting.hidden) return h("span", { class: "soft" }, t("settings.hidden"));
  if (setting.value === null) return h("span", { class: "soft" }, t("settings.notSet"));
  const text = [setting.value].flat().join(", ");
  const number = Number(text);
  if (setting.unit === null || !Number.isFinite(number)) return h("code", { class: "reason" }, text);
  return h("span", { title: `${text} ${setting.unit}` }, withUnit(number, setting.unit));
}

function withUnit(number, unit) {
  switch (unit) {
  case "bytes": return bytes(number);
  case "bytes/second": return t("settings.perSecond", { value: bytes(number) });
  case "requests/second": return t("settings.perSecond", { value: count(number) });
  case "hours": return duration(number * 3_600_000);
  case "seconds": return duration(number * 1_000);
  default: return `${count(number)} ${unit}`;
  }
}

const scopes = ["read", "write", "operate", "work"];

/// The API keys: who may do what, and when each was used.
function keys(isCurrent) {
  const place = h("div", { data: { part: "keys" } }, loading());
  const { known } = session;
  const add = known.requiresKey && h("button", { type: "button", class: "small", data: { focus: "add-key" }, on: { click: make } }, icon("key", 14), t("keys.make"));

  async function load() {
    try {
      const { keys: all } = await call("/api/v1/keys");
      if (isCurrent()) show(all);
    } catch (error) {
      if (isCurrent() && error.status !== 401) replace(place, failed(error, load));
    }
  }

  function show(all) {
    if (all.length === 0) return replace(place, empty(t("keys.none"), t("keys.noneText"), h("pre", { class: "json" }, "regispay keys create --name anna --scope read --scope write --scope operate")));
    replace(place, h("div", { class: "scroll" }, table(t("keys.title"), [
      { title: t("keys.name"), class: "wide", cell: (key) => h("span", { class: "reason" }, h("b", {}, key.name), key.owner !== key.name && h("span", { class: "soft" }, ` (${key.owner})`)) },
      { title: t("keys.id"), class: "id", cell: (key) => h("code", {}, key.id) },
      { title: t("keys.scopes"), cell: (key) => key.scopes.join(", ") },
      { title: t("payment.state"), cell: stateOf },
      { title: t("keys.created"), class: "labelled", cell: (key) => moment(key.createdAt) },
      { title: t("keys.used"), class: "labelled", cell: (key) => moment(key.lastUsedAt) },
      { title: t("keys.revoke"), hideTitle: true, cell: (key) => isValid(key) && h("button", { type: "button", class: "small danger-quiet", data: { focus: `revoke-${key.id}` }, on: { click: () => revoke(key) } }, t("keys.revoke")) },
    ], all.toReversed())));
  }

  async function make() {
    const boxes = scopes.filter((scope) => session.may(scope)).map((scope) => h("label", { class: "check" }, h("input", { type: "checkbox", name: scope, checked: scope === "read" }), t(`keys.${scope}`)));
    const values = await ask({
      title: t("keys.make"), confirm: t("keys.make"),
      fields: [field(t("keys.name"), h("input", { name: "name", maxLength: 100, required: true, autocomplete: "off" })), h("fieldset", {}, h("legend", {}, t("keys.scopes")), boxes),
        field(t("keys.days"), h("input", { name: "days", inputMode: "numeric", value: "90" }), { hint: t("keys.daysHint") })],
      check: (values) => !values.name.trim() ? t("keys.needsName") : !scopes.some((scope) => scope in values) ? t("keys.needsScope")
        : values.days.trim() && !/^[1-9][0-9]{0,4}$/.test(values.days.trim()) ? t("keys.notDays") : null,
    });
    if (!values) return;
    try {
      const made = await call("/api/v1/keys", { method: "POST", body: { name: values.name.trim(), scopes: scopes.filter((scope) => scope in values),
        ...(values.days.trim() ? { expiresInDays: Number(values.days) } : {}) } });
      await ask({ title: t("keys.made", { name: made.name }), text: t("keys.madeText"), fields: [h("p", { class: "id-text" }, h("code", { class: "reason" }, made.key), copyButton(made.key, t("copy.id")))], confirm: t("keys.kept") });
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      notify(error.message, "bad");
    }
    await load();
  }

  async function revoke(key) {
    const isOwn = key.name === known.key;
    const values = await ask({ title: t("keys.revokeOne", { name: key.name }), text: `${t("keys.revokeText")}${isOwn ? ` ${t("keys.revokeOwn")}` : ""}`, confirm: t("keys.revoke"), danger: true });
    if (!values) return;
    try {
      await call(`/api/v1/keys/${key.id}`, { method: "DELETE" });
      notify(t("keys.revoked", { name: key.name }));
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      notify(error.message, "bad");
    }
    await load();
  }

  load();
  return panel(t("keys.title"), { actions: [add] }, place);
}

const isValid = (key) => key.revokedAt === null && (key.expiresAt === null || Date.parse(key.expiresAt) > Date.now());

function stateOf(key) {
  if (key.revokedAt !== null) return h("span", {}, badge("quiet", "stop", t("keys.isRevoked")), " ", moment(key.revokedAt));
  if (!isValid(key)) return h("span", {}, badge("quiet", "wait", t("keys.isExpired")), " ", moment(key.expiresAt));
  return h("span", {}, badge("good", "done", t("keys.isValid")), key.expiresAt !== null && [" ", h("span", { class: "soft" }, t("keys.until"), " ", moment(key.expiresAt))]);
}
