// The frame around the pages: navigation, sign-in, state of the connection, settings, keys.

import { call, onRefusedKey, session } from "./api.js";
import { h, icon, replace } from "./dom.js";
import { follow, live, onLive, stop } from "./live.js";
import { failed, field, notify } from "./parts.js";
import { applyTheme, setSetting, setting } from "./settings.js";
import { language, languages, t } from "./text.js";
import { time } from "./format.js";
import * as actions from "./actions.js";
import * as create from "./create.js";
import * as log from "./log.js";
import * as overview from "./overview.js";
import * as payment from "./payment.js";
import * as payments from "./payments.js";
import * as processing from "./processing.js";
import * as simulator from "./simulator.js";
import * as system from "./system.js";
import * as webhooks from "./webhooks.js";

/// Pages by the first part of the address after `#/`. `scope`, or else `read`: without it the page isn't offered.
const pages = {
  overview: { page: overview, icon: "overview", key: "o" },
  payments: { page: payments, detail: payment, icon: "payments", key: "p" },
  create: { page: create, icon: "add", key: "n", scope: "write" },
  processing: { page: processing, icon: "processing", key: "c" },
  actions: { page: actions, icon: "done", key: "a" },
  log: { page: log, icon: "log", key: "l" },
  webhooks: { page: webhooks, icon: "webhooks", key: "w", scope: "operate" },
  simulator: { page: simulator, icon: "simulator", key: "s", present: () => session.known?.simulator.psp || session.known?.simulator.notifications },
  system: { page: system, icon: "system", key: "y", scope: null },
};

const isOffered = ({ scope = "read", present }) => (scope === null || session.may(scope)) && (present === undefined || present());

/// Reports violations of the pages' Content-Security-Policy to the server: at most ten from each load of the page, because an extension
/// of the browser can cause any number of them.
const violations = [];
let violationsLeft = 10;
document.addEventListener("securitypolicyviolation", (event) => {
  if (violationsLeft === 0) return;
  violationsLeft -= 1;
  violations.push({ directive: event.effectiveDirective, blocked: event.blockedURI, source: event.sourceFile ?? "", line: event.lineNumber ?? 0 });
  reportViolations();
});

function reportViolations() {
  if (!session.known) return;
  for (const violation of violations.splice(0)) {
    // Counting them matters less than anything else that this page does.
    call("/api/v1/csp-reports", { method: "POST", body: violation }).catch(() => {});
  }
}

applyTheme();
const frame = { nav: null, main: null, state: null, banner: null };

/// The page that is shown: `refresh` asks for its data again, `close` ends what it began.
let shown = null;
let visit = 0;

function address() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name = "", id] = path.split("/").map(decodeURIComponent);
  return { name: name || "overview", id, query: new URLSearchParams(query) };
}

async function show() {
  const { name, id, query } = address();
  const entry = pages[name];
  visit += 1;
  const number = visit;
  shown?.close?.();
  shown = null;
  document.querySelectorAll("dialog").forEach((dialog) => dialog.close());
  showNavigation(name);
  openMenu(false);
  if (!entry || !isOffered(entry)) {
    // A key that may not read begins with what it may do.
    const [first] = Object.entries(pages).find(([, other]) => isOffered(other)) ?? [];
    if (first && name === "overview") return location.replace(`#/${first}`);
    const title = t(entry ? "page.refused" : "page.missing");
    document.title = `${title} – RegisPay`;
    replace(frame.main, h("h1", { tabIndex: -1 }, title),
      h("p", {}, entry ? t("page.notAllowed") : t("page.missingText"), " ", first && h("a", { href: `#/${first}` }, t(`page.${first}`))));
    return;
  }
  const page = id !== undefined && entry.detail ? entry.detail : entry.page;
  const title = page.title?.({ id, query }) ?? t(`page.${name}`);
  document.title = `${title} – RegisPay`;
  const root = h("div", { class: "page" });
  replace(frame.main, root);
  try {
    const made = await page.show(root, { id, query, isCurrent: () => number === visit });
    if (number !== visit) return made?.close?.();
    shown = made ?? null;
  } catch (error) {
    if (number !== visit) return;
    if (error.status !== 401) replace(root, h("h1", { tabIndex: -1 }, title), failed(error, show));
  }
  // A page may have chosen where a person goes on.
  if (movesFocus && !frame.main.contains(document.activeElement)) frame.main.querySelector("h1")?.focus({ preventScroll: true });
  movesFocus = false;
}
let movesFocus = false;

function showNavigation(current) {
  replace(frame.links, Object.entries(pages).filter(([, entry]) => isOffered(entry)).map(([name, entry]) =>
    h("li", {}, h("a", { href: `#/${name}`, "aria-current": name === current ? "page" : undefined, data: { focus: `nav-${name}` } },
      icon(entry.icon), h("span", {}, t(`page.${name}`))))));
}

function showConnection() {
  const state = live.state;
  frame.state.dataset.state = state;
  replace(frame.state, h("span", { class: "dot", "aria-hidden": "true" }), t(`live.${state}`));
  const isStale = state === "lost";
  document.body.dataset.stale = String(isStale);
  frame.banner.hidden = !isStale;
  if (isStale) {
    const text = live.since ? t("live.lostSince", { time: time(new Date(live.since).toISOString()) }) : t("live.lostText");
    if (frame.banner.textContent !== text) replace(frame.banner, icon("warn"), h("span", {}, text));
  }
}

let wasLost = false;
let listEnd = null;
onLive((state, isTick) => {
  if (!frame.main) return;
  showConnection();
  if (state.state === "lost") wasLost = true;
  if (!isTick) return;
  // After an interruption everything may be another, also what this key may do.
  if (wasLost) {
    wasLost = false;
    listEnd = state.tick.listEnd;
    return begin({ again: true });
  }
  shown?.tick?.(state.tick);
  if (listEnd !== state.tick.listEnd || state.tick.listEnd < state.tick.logEnd) {
    listEnd = state.tick.listEnd;
    refresh();
  }
});

let isRefreshing = false;
let wantsRefresh = false;
/// Asks for the page's data again, never twice at once.
async function refresh(isAsked = false) {
  if (isRefreshing) { wantsRefresh = true; return; }
  isRefreshing = true;
  const page = shown;
  try {
    await page?.refresh?.(isAsked);
  } catch (error) {
    // The next tick tries again; the connection's state says that the server is away.
    if (error.status > 0 && error.status !== 401) notify(error.message, "bad");
  } finally {
    isRefreshing = false;
    if (wantsRefresh) { wantsRefresh = false; refresh(); }
  }
}

function select(name, label, options) {
  return h("label", { class: "setting" }, h("span", {}, label), h("select", { on: { change: (event) => {
    setSetting(name, event.target.value);
    applyTheme();
    build();
    begin({ again: true });
  } } }, options.map(([value, text]) => h("option", { value, selected: setting(name, options[0][0]) === value }, text))));
}

/// On a narrow screen the navigation lies over the page.
function openMenu(isOpen) {
  frame.nav.dataset.open = String(isOpen);
  frame.menu.setAttribute("aria-expanded", String(isOpen));
  // Neither the pointer nor the tabulator leads under it.
  frame.content.inert = isOpen;
}
matchMedia("(min-width: 60.01rem)").addEventListener("change", () => openMenu(false));

function build() {
  document.documentElement.lang = language();
  delete document.body.dataset.signedOut;
  frame.links = h("ul", {});
  frame.state = h("p", { class: "connection", id: "live", role: "status" });
  frame.banner = h("p", { class: "banner", role: "alert", hidden: true });
  frame.main = h("main", { id: "main", tabIndex: -1 });
  frame.search = h("input", { type: "search", placeholder: t("search.placeholder"), "aria-label": t("search.label"), maxLength: 200,
    autocomplete: "off", spellcheck: false });
  frame.menu = h("button", { type: "button", class: "icon-button menu", "aria-label": t("menu"), "aria-expanded": "false", on: {
    click: () => openMenu(frame.nav.dataset.open !== "true") } }, icon("menu"));
  frame.nav = h("nav", { "aria-label": t("navigation"), data: { open: "false" } }, h("div", { class: "nav-inner" }, frame.links, h("div", { class: "settings" },
    select("theme", t("setting.theme"), [["system", t("theme.system")], ["light", t("theme.light")], ["dark", t("theme.dark")]]),
    select("times", t("setting.times"), [["local", t("times.local")], ["utc", "UTC"]]),
    h("label", { class: "setting" }, h("span", {}, t("setting.language")), h("select", { on: { change: (event) => {
      setSetting("language", event.target.value);
      build();
      begin({ again: true });
    } } }, Object.entries(languages).map(([value, { name }]) => h("option", { value, selected: language() === value, lang: value }, name)))),
    session.hasKey && h("button", { type: "button", class: "quiet", on: { click: signOut } }, icon("key", 16), t("key.forget")))));
  frame.content = h("div", { class: "content" }, frame.banner, frame.main);
  const children = [
    h("a", { class: "skip", href: "#main", on: { click: (event) => { event.preventDefault(); frame.main.focus(); } } }, t("skip")),
    h("header", { class: "top" }, frame.menu, h("a", { class: "brand", href: "#/overview" }, "RegisPay"),
      h("form", { class: "search", role: "search", on: { submit: (event) => {
        event.preventDefault();
        const text = frame.search.value.trim();
        // Neither an id nor a reference at a PSP looks like an amount with its decimals.
        const name = /^\d+[.,]\d{2}$/.test(text) ? "amount" : "search";
        location.hash = text ? `#/payments?${name}=${encodeURIComponent(name === "amount" ? text.replace(",", ".") : text)}` : "#/payments";
      } } }, icon("search", 16), frame.search), frame.state),
    frame.nav, h("div", { class: "backdrop", on: { click: () => openMenu(false) } }), frame.content,
  ];
  document.querySelectorAll("body > :not(noscript)").forEach((element) => element.remove());
  document.body.append(...children);
  showConnection();
}

function signOut() {
  session.forget();
  stop();
  build();
  begin();
}

/// Asks what the key may do, then shows the page and follows the server.
async function begin({ again = false } = {}) {
  try {
    session.known = await call("/api/v1/session");
    reportViolations();
  } catch (error) {
    if (error.status === 401) return;
    live.state = "lost";
    showConnection();
    replace(frame.main, failed(error, () => begin()));
    setTimeout(() => { if (!session.known) begin(); }, 2_000);
    return;
  }
  await show();
  // What happens at the server is for keys that may read.
  if (!session.may("read")) {
    stop();
    live.state = "unread";
    showConnection();
  } else if (!again || live.state === "connecting") follow();
}

function askForKey() {
  stop();
  shown?.close?.();
  shown = null;
  visit += 1;
  const wasRefused = session.hasKey;
  session.forget();
  showNavigation(null);
  // The question must be within reach, also where the menu was open.
  openMenu(false);
  replace(frame.links);
  live.state = "connecting";
  document.body.dataset.signedOut = "true";
  frame.state.dataset.state = "signedOut";
  replace(frame.state, h("span", { class: "dot", "aria-hidden": "true" }), t("live.signedOut"));
  const key = h("input", { type: "password", name: "key", autocomplete: "off", required: true, spellcheck: false });
  replace(frame.main, h("div", { class: "sign-in panel" }, h("h1", { tabIndex: -1 }, t("key.title")),
    wasRefused && h("p", { class: "field-error", role: "alert" }, t("key.refused")), h("p", { class: "soft" }, t("key.text")),
    h("form", { on: { submit: (event) => {
      event.preventDefault();
      const text = key.value.trim();
      if (!text) return;
      // A header can't have other characters, and no key has.
      if (!/^[\x21-\x7e]+$/.test(text)) return notify(t("key.refused"), "bad");
      session.setKey(text);
      build();
      begin();
    } } }, field(t("key.label"), key), h("button", { type: "submit", class: "primary" }, t("key.use")))));
  key.focus();
}
onRefusedKey(askForKey);

function help() {
  const rows = [["/", t("help.search")], ["?", t("help.help")], ["n", t("page.create")], ["j k", t("help.rows")], ["r", t("help.refresh")], ["Esc", t("help.close")],
    ...Object.entries(pages).filter(([name, entry]) => isOffered(entry) && name !== "create").map(([name, entry]) => [`g ${entry.key}`, t(`page.${name}`)])];
  const dialog = h("dialog", { "aria-labelledby": "help-title", on: { close: () => dialog.remove() } }, h("h2", { id: "help-title" }, t("help.title")),
    h("dl", { class: "keys" }, rows.map(([keys, text]) => h("div", {}, h("dt", {}, keys.split(" ").map((key) => h("kbd", {}, key))), h("dd", {}, text)))),
    h("div", { class: "dialog-actions" }, h("button", { type: "button", class: "primary", on: { click: () => dialog.close() } }, t("close"))));
  document.body.append(dialog);
  dialog.showModal();
}

let leader = 0;
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && frame.nav?.dataset.open === "true") {
    openMenu(false);
    return frame.menu.focus();
  }
  if (event.ctrlKey || event.metaKey || event.altKey || !session.known) return;
  if (event.target.closest("input, select, textarea, dialog")) {
    if (event.key === "Escape" && event.target === frame.search) frame.search.blur();
    return;
  }
  if (event.key === "/") { event.preventDefault(); frame.search.focus(); frame.search.select(); return; }
  if (event.key === "?") return help();
  if (event.key === "g") { leader = Date.now(); return; }
  if (Date.now() - leader < 1_500) {
    leader = 0;
    const found = Object.entries(pages).find(([, entry]) => entry.key === event.key && isOffered(entry));
    if (found) { movesFocus = true; location.hash = `#/${found[0]}`; }
    return;
  }
  if (event.key === "n" && session.may("write")) { movesFocus = true; location.hash = "#/create"; }
  if (event.key === "r") refresh(true);
  if (event.key === "j" || event.key === "k") {
    const links = [...frame.main.querySelectorAll(".row-link")];
    const at = links.indexOf(document.activeElement);
    links[at < 0 ? 0 : at + (event.key === "j" ? 1 : -1)]?.focus();
  }
});

window.addEventListener("hashchange", () => {
  if (session.known) {
    movesFocus ||= !document.activeElement?.closest("nav, .top, main");
    show();
  }
});

build();
begin();
