// The events of the log, from any offset on, or as they come.

import { parse, pretty, RequestError, send } from "./api.js";
import { h, icon, replace } from "./dom.js";
import { live } from "./live.js";
import { empty, failed, field, loading, moment, panel } from "./parts.js";
import { t } from "./text.js";

const pageSize = 50;
/// The most events that are kept on the page while it follows the log.
const keptLimit = 200;

const types = ["PaymentInitiated", "PaymentCreated", "PaymentSettled", "PaymentCompleted", "PaymentDeclined", "PaymentCancellationRequested", "PaymentCancellationRefused",
  "PaymentCancelled", "PaymentFailed", "PaymentDelayed", "PaymentRetried", "PaymentRefundRequested", "PaymentRefunded", "PaymentRefundDeclined", "PaymentRefundFailed",
  "PaymentOutcomeUnknown", "PaymentOutcomeResolved"];

export async function show(root, { query, isCurrent }) {
  const controller = new AbortController();
  const type = types.includes(query.get("type")) ? query.get("type") : "";
  const follows = query.get("follow") === "yes";
  const end = live.tick?.logEnd ?? 0;
  const wanted = /^[0-9]{1,15}$/.test(query.get("from") ?? "") ? Number(query.get("from")) : null;
  const from = wanted ?? Math.max(0, end - pageSize);
  const address = (changes) => {
    const next = new URLSearchParams(Object.entries({ from: String(from), type, follow: follows ? "yes" : "", ...changes }).filter(([, value]) => value !== ""));
    return `#/log?${next}`;
  };

  const offset = h("input", { name: "from", inputMode: "numeric", value: String(from), autocomplete: "off" });
  const kind = h("select", { name: "type" }, h("option", { value: "" }, t("log.allTypes")), types.map((name) => h("option", { value: name, selected: name === type }, t(`event.${name}`))));
  const place = h("div", {}, loading(8));
  const state = h("p", { class: "soft", role: "status" });
  const pager = h("div", { class: "actions" });
  replace(root, h("div", { class: "page-head" }, h("h1", { tabIndex: -1 }, t("page.log"))),
    panel(t("log.events"), { actions: [
      h("a", { class: "button small", href: address({ follow: follows ? "" : "yes", from: follows ? String(from) : String(end) }), "aria-current": follows ? "true" : undefined },
        icon(follows ? "pause" : "play", 14), t(follows ? "log.stop" : "log.follow"))] },
    h("form", { class: "filters", on: { submit: (event) => {
      event.preventDefault();
      location.hash = address({ from: offset.value.trim().replace(/[^0-9]/g, "") || "0", type: kind.value, follow: "" });
    } } }, field(t("log.from"), offset), field(t("log.type"), kind), h("button", { type: "submit" }, t("log.go"))), place, h("div", { class: "pager" }, state, pager)));
  kind.addEventListener("change", () => { location.hash = address({ type: kind.value }); });

  const events = [];
  let isDrawn = true;
  const draw = () => {
    isDrawn = true;
    if (!isCurrent()) return;
    const opened = new Set([...place.querySelectorAll("details[open]")].map((element) => element.dataset.offset));
    replace(place, events.length === 0 ? empty(t("log.none"), t("log.noneText"))
      : h("ol", { class: "events" }, (follows ? events.toReversed() : events).map((event) => h("li", {},
        h("details", { data: { offset: String(event.offset) }, open: opened.has(String(event.offset)) },
          h("summary", {}, icon("down", 14), h("span", { class: "mono number" }, String(event.offset)), h("b", {}, t(`event.${event.type}`)), h("span", {}, moment(event.timestamp)),
            h("code", {}, event.eventId)),
          h("pre", { class: "json", tabIndex: 0 }, pretty(event)), event.stream.startsWith("pay:") && h("p", {}, h("a", { href: `#/payments/${event.stream.slice(4)}` }, t("log.payment"))))))));
    const last = events.at(-1);
    state.textContent = follows ? t("log.following") : "";
    replace(pager, !follows && from > 0 && h("a", { class: "button small", href: address({ from: String(Math.max(0, from - pageSize)) }) }, t("payments.previous")),
      !follows && last && h("a", { class: "button small", href: address({ from: String(last.offset + 1) }) }, t("payments.next")),
      !follows && h("a", { class: "button small", href: "#/log" }, t("log.toEnd")));
  };

  try {
    await read(from, type, controller.signal, follows, (event) => {
      events.push(event);
      if (follows && events.length > keptLimit) events.shift();
      if (follows && isDrawn) {
        isDrawn = false;
        setTimeout(draw, 500);
      }
      return follows || events.length < pageSize;
    }, () => draw());
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    replace(place, failed(error));
  }
  return { close: () => controller.abort() };
}

/// Reads the event stream. While it is browsed it ends with the page, or at the end of the log; while it is followed it goes on.
async function read(from, type, signal, follows, take, ready) {
  const own = new AbortController();
  signal.addEventListener("abort", () => own.abort(), { once: true });
  const response = await send(`/api/v1/events?from=${from}${type ? `&type=${type}` : ""}`, { signal: own.signal });
  if (!response.ok) {
    const problem = parse(await response.text());
    throw new RequestError(response.status, problem.detail ?? response.statusText);
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const whole = (async () => {
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data: ") && !take(parse(line.slice(6)))) return;
    }
  })().catch((error) => { if (error.name !== "AbortError") throw error; });
  if (follows) {
    ready();
    whole.then(ready, ready);
    return;
  }
  // A stream has no end: what has not come after a moment is not there yet.
  await Promise.race([whole, new Promise((resolve) => setTimeout(resolve, 700))]);
  ready();
  own.abort();
}
