// Endpoints of webhooks, what was delivered to them, and what a person can do about it.

import { call, parse, pretty, RequestError } from "./api.js";
import { h, icon, replace } from "./dom.js";
import { count, duration } from "./format.js";
import { ask, badge, copyButton, empty, facts, field, idText, loading, moment, notify, panel, showFieldErrors, table } from "./parts.js";
import { t } from "./text.js";

export async function show(root, { query, isCurrent }) {
  const chosen = query.get("id");
  const list = h("div", { class: "stack" }, loading());
  const detail = h("div", { class: "stack" });
  replace(root, h("div", { class: "page-head" }, h("h1", { tabIndex: -1 }, t("page.webhooks")),
    h("div", { class: "actions" }, h("button", { type: "button", class: "primary", on: { click: add } }, icon("add", 16), t("webhooks.add")))), list, detail);

  async function load() {
    const { webhooks } = await call("/api/v1/webhooks");
    if (!isCurrent()) return;
    replace(list, webhooks.length === 0 ? panel(t("webhooks.endpoints"), {}, empty(t("webhooks.none"), t("webhooks.noneText"))) : panel(t("webhooks.endpoints"), {},
      h("div", { class: "scroll" }, table(t("webhooks.endpoints"), [
        { title: "URL", class: "wide", cell: (webhook) => h("a", { href: `#/webhooks?id=${encodeURIComponent(webhook.id)}`, class: "reason", "aria-current": webhook.id === chosen ? "true" : undefined,
          data: { focus: webhook.id } }, webhook.url) },
        { title: t("webhooks.state"), cell: stateOf },
        { title: t("webhooks.waiting"), class: "number labelled", cell: (webhook) => count(webhook.waiting) },
        { title: t("webhooks.behind"), class: "number labelled", cell: (webhook) => t("events", { count: webhook.logEnd - webhook.offset }) },
        { title: t("webhooks.lastSuccess"), class: "labelled", cell: (webhook) => moment(webhook.lastSuccessAt) },
      ], webhooks))));
    const webhook = webhooks.find((candidate) => candidate.id === chosen);
    if (webhook) await showDetail(webhook);
    else replace(detail);
  }

  async function showDetail(webhook) {
    const path = `/api/v1/webhooks/${encodeURIComponent(webhook.id)}`;
    const { deliveries } = await call(`${path}/deliveries?limit=50`);
    if (!isCurrent()) return;
    const act = (name, work, kind) => h("button", { type: "button", class: kind ?? "", data: { focus: `webhook-${name}` }, on: { click: () => carry(work) } }, t(`webhooks.${name}`));
    replace(detail, panel(webhook.url, { actions: [
      act("test", async () => {
        const delivery = await call(`${path}/test`, { method: "POST" });
        const isGood = delivery.outcome === "delivered";
        notify(isGood ? t("webhooks.tested", { status: delivery.status }) : t("webhooks.testFailed", { reason: delivery.error ?? String(delivery.status) }), isGood ? "good" : "bad");
      }),
      act("replay", async () => {
        const from = h("input", { name: "from", autocomplete: "off", placeholder: "0", required: true });
        const values = await ask({ title: t("webhooks.replay"), text: t("webhooks.replayText"), fields: [field(t("webhooks.replayFrom"), from, { hint: t("webhooks.replayHint") })],
          confirm: t("webhooks.replay"), check: ({ from }) => from.trim() ? null : t("webhooks.replayHint") });
        if (!values) return;
        const text = values.from.trim();
        await call(`${path}/replay`, { method: "POST", body: /^[0-9]+$/.test(text) ? `{"from":${text.replace(/^0+(?=[0-9])/, "")}}` : text.startsWith("msg_") ? { event: text } : { from: text } });
        notify(t("webhooks.replayed"));
      }),
      act("rotate", async () => {
        const values = await ask({ title: t("webhooks.rotate"), text: t("webhooks.rotateText"), confirm: t("webhooks.rotate"), danger: true });
        if (values) showSecret(await call(`${path}/rotate`, { method: "POST" }));
      }),
      act(webhook.enabled ? "disable" : "enable", async () => { await call(path, { method: "PATCH", body: { enabled: !webhook.enabled } }); }),
      act("remove", async () => {
        const values = await ask({ title: t("webhooks.remove"), text: t("webhooks.removeText", { url: webhook.url }), confirm: t("webhooks.remove"), danger: true });
        if (!values) return;
        await call(path, { method: "DELETE" });
        location.hash = "#/webhooks";
      }),
    ] }, facts([
      ["ID", idText(webhook.id)], [t("webhooks.description"), webhook.description || "–"],
      [t("webhooks.events"), webhook.events ? webhook.events.join(", ") : t("webhooks.allEvents")], [t("webhooks.state"), stateOf(webhook)],
      webhook.disabledReason && [t("processing.reason"), webhook.disabledReason],
      webhook.failuresInRow > 0 && [t("webhooks.failures"), count(webhook.failuresInRow), webhook.failingSince && [`, ${t("webhooks.since")} `, moment(webhook.failingSince)]],
      webhook.nextTryAt && [t("webhooks.nextTry"), moment(webhook.nextTryAt)],
      webhook.previousSecretUntil && [t("webhooks.previousSecret"), moment(webhook.previousSecretUntil)],
    ])), panel(t("webhooks.deliveries"), {}, deliveries.length === 0 ? empty(t("webhooks.noDeliveries")) : h("div", { class: "scroll" }, table(t("webhooks.deliveries"), [
      { title: t("webhooks.started"), cell: (delivery) => moment(delivery.startedAt) },
      { title: t("webhooks.outcome"), cell: outcomeOf },
      { title: t("log.type"), class: "wide", cell: (delivery) => delivery.type },
      { title: t("webhooks.status"), class: "number labelled", cell: (delivery) => delivery.status ?? "–" },
      { title: t("webhooks.duration"), class: "number labelled", cell: (delivery) => duration(delivery.durationMilliseconds) },
      { title: t("webhooks.attempt"), class: "number labelled", cell: (delivery) => count(delivery.attempt) },
      { title: t("webhooks.error"), class: "wide", cell: (delivery) => delivery.error ? h("span", { class: "reason soft" }, delivery.error) : "" },
      { title: t("webhooks.show"), hideTitle: true, cell: (delivery) => h("button", { type: "button", class: "small", data: { focus: `delivery-${delivery.id}` }, on: { click: () => showDelivery(webhook.id, delivery) } }, t("webhooks.show")) },
    ], deliveries))));
  }

  async function carry(work) {
    try {
      await work();
      await load();
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      notify(error.message, "bad");
    }
  }

  async function add() {
    const url = h("input", { name: "url", type: "url", required: true, placeholder: "https://", autocomplete: "off" });
    const description = h("input", { name: "description", autocomplete: "off" });
    const values = await ask({ title: t("webhooks.add"), fields: [field("URL", url), field(t("webhooks.description"), description)], confirm: t("webhooks.add"),
      check: ({ url }) => url.trim() ? null : t("webhooks.needsURL") });
    if (!values) return;
    await carry(async () => {
      const made = await call("/api/v1/webhooks", { method: "POST", body: { url: values.url.trim(), description: values.description } });
      location.hash = `#/webhooks?id=${encodeURIComponent(made.id)}`;
      showSecret(made);
    });
  }

  await load();
  return { tick: () => { if (!document.querySelector("dialog[open]")) load().catch(() => {}); } };
}

function showSecret(webhook) {
  const dialog = h("dialog", { "aria-labelledby": "secret-title", on: { close: () => dialog.remove() } }, h("div", { class: "stack" }, h("h2", { id: "secret-title" }, t("webhooks.secret")),
    h("p", {}, t("webhooks.secretText")), h("p", { class: "id-text" }, h("code", {}, webhook.secret), copyButton(webhook.secret, t("copy.secret"))),
    h("div", { class: "dialog-actions" }, h("button", { type: "button", class: "primary", on: { click: () => dialog.close() } }, t("close")))));
  document.body.append(dialog);
  dialog.showModal();
}

/// A delivery in a dialog: what was sent, and what came back.
export async function showDelivery(webhook, delivery) {
  let found;
  try {
    found = await call(`/api/v1/webhooks/${encodeURIComponent(webhook)}/deliveries/${encodeURIComponent(delivery.id)}`);
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    return notify(error.message, "bad");
  }
  const { request, response } = found;
  const text = (content) => h("pre", { class: "json", tabIndex: 0 }, content);
  const dialog = h("dialog", { class: "large", "aria-labelledby": "delivery-title", on: { close: () => dialog.remove() } }, h("div", { class: "stack" }, h("h2", { id: "delivery-title" }, t("webhooks.delivery")),
    facts([
      [t("log.type"), found.type], [t("webhooks.outcome"), outcomeOf(found)], [t("webhooks.started"), moment(found.startedAt)],
      [t("webhooks.duration"), duration(found.durationMilliseconds)], [t("webhooks.attempt"), count(found.attempt)], found.nextTryAt && [t("webhooks.nextTry"), moment(found.nextTryAt)],
    ]),
    h("h3", {}, t("webhooks.request")),
    request ? text(`POST ${request.url}\n${Object.entries(request.headers).map(([name, value]) => `${name}: ${value}`).join("\n")}\n\n${readable(request.body)}`)
      : h("p", { class: "soft" }, t("webhooks.noRequest")),
    request && h("p", { class: "soft" }, t("webhooks.requestNote")),
    h("h3", {}, t("webhooks.response")),
    h("p", {}, found.status === null ? found.error ?? t("payment.noAnswer") : `HTTP ${found.status}`), response !== null && text(readable(response)),
    h("div", { class: "dialog-actions" }, request && copyButton(request.body, t("copy.body")), h("button", { type: "button", class: "primary", autofocus: true, on: { click: () => dialog.close() } }, t("close")))));
  document.body.append(dialog);
  dialog.showModal();
}

/// JSON with line breaks; any other text as it is.
function readable(body) {
  try {
    return pretty(parse(body));
  } catch {
    return body;
  }
}

/// From so many failures in a row on the server calls an endpoint failing, and holds its new messages.
const failureLimit = 5;

function stateOf(webhook) {
  if (!webhook.enabled) return badge("quiet", "stop", t("webhooks.isDisabled"));
  if (webhook.failuresInRow >= failureLimit) return badge("bad", "warn", t("webhooks.isFailing"));
  if (webhook.failuresInRow > 0) return badge("wait", "wait", t("webhooks.isRetrying"));
  return badge("good", "done", t("webhooks.isWorking"));
}

function outcomeOf(delivery) {
  if (delivery.outcome === "delivered") return badge("good", "done", t("delivery.delivered"));
  return badge(delivery.nextTryAt ? "wait" : "bad", delivery.nextTryAt ? "wait" : "warn", t(`delivery.${delivery.outcome}`));
}
