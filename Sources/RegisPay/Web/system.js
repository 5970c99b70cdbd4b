// The server itself: its version, its health with reasons, what this key may do, and how much it logs.

import { call, RequestError, send, session } from "./api.js";
import { h, icon, replace } from "./dom.js";
import { badge, facts, field, idText, loading, notify, panel } from "./parts.js";
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
    panel(t("system.health"), {}, health), session.may("operate") ? await logging() : null));

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
