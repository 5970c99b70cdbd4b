// The events of the log, from any offset on, or as they come.

import { call, parse, pretty, RequestError, send } from "./api.js";
import { h, icon, replace } from "./dom.js";
import { live } from "./live.js";
import { bytes, count, duration, percent } from "./format.js";
import { badge, empty, facts, failed, field, loading, moment, panel, table } from "./parts.js";
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
  const files = h("div", { class: "stack" }, loading(3));
  replace(root, h("div", { class: "page-head" }, h("h1", { tabIndex: -1 }, t("page.log"))), files,
    panel(t("log.events"), { actions: [
      h("a", { class: "button small", href: address({ follow: follows ? "" : "yes", from: follows ? String(from) : String(end) }), "aria-current": follows ? "true" : undefined },
        icon(follows ? "pause" : "play", 14), t(follows ? "log.stop" : "log.follow"))] },
    h("form", { class: "filters", on: { submit: (event) => {
      event.preventDefault();
      location.hash = address({ from: offset.value.trim().replace(/[^0-9]/g, "") || "0", type: kind.value, follow: "" });
    } } }, field(t("log.from"), offset), field(t("log.type"), kind), h("button", { type: "submit" }, t("log.go"))), place, h("div", { class: "pager" }, state, pager)));
  kind.addEventListener("change", () => { location.hash = address({ type: kind.value }); });

  call("/api/v1/log").then((log) => { if (isCurrent()) replace(files, engine(log)); },
    (error) => { if (isCurrent()) replace(files, failed(error)); });

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

/// The log's files and what the engine does with them.
function engine(log) {
  const { commits, index, scrub } = log;
  return [log.failure && h("p", { class: "failed", role: "alert" }, icon("warn"), log.failure),
    h("section", { class: "panel stack", "aria-labelledby": "log-files" },
      h("div", { class: "panel-head" }, h("h2", { id: "log-files" }, t("log.files")), scrub?.findings.length > 0 ? badge("bad", "warn", t("log.damage"))
        : index.segmentsToIndex + index.mergesDue > 0 ? badge("wait", "wait", t("log.indexing")) : badge("good", "done", t("log.sound"))),
      facts([
        [t("log.end"), count(log.endOffset)],
        [t("log.segments"), t("log.segmentsText", { count: log.segmentCount, bytes: bytes(log.segmentBytes) })],
        [t("log.commits"), commits.count > 0 ? t("log.commitsText", { count: commits.count, appends: (commits.appends / commits.count).toFixed(1), time: duration(commits.syncMilliseconds / commits.count) }) : "–"],
        [t("log.index"), index.segmentsToIndex + index.mergesDue > 0 ? t("log.indexBehind", { count: index.segmentsToIndex, merges: index.mergesDue }) : index.files === 0 ? t("log.noIndex") : t("log.indexText", { count: index.files })],
        [t("log.opening"), duration(log.openingMilliseconds)],
        [t("log.scrub"), scrub === null ? t("log.scrubOff") : t("log.scrubText", { count: scrub.rounds, share: percent(scrub.progress) })],
        log.gaps.length > 0 && [t("log.gaps"), h("ul", {}, log.gaps.map((gap) => h("li", {}, t("log.gap", { offset: gap.offset, count: gap.events }))))],
      ]), scrub?.findings.length > 0 && h("ul", {}, scrub.findings.map((finding) => h("li", { class: "reason" }, finding))),
      h("details", {}, h("summary", {}, t("log.segments")), h("div", { class: "scroll" }, table(t("log.segments"), [
        { title: t("log.file"), class: "wide", cell: (segment) => h("code", {}, segment.file) },
        { title: t("log.from"), class: "number", cell: (segment) => h("a", { href: `#/log?from=${segment.offset}` }, count(segment.offset)) },
        { title: t("log.events"), class: "number", cell: (segment) => count(segment.events) },
        { title: t("log.size"), class: "number", cell: (segment) => bytes(segment.bytes) },
        { title: t("log.changed"), cell: (segment) => moment(segment.changedAt) },
        { title: t("payment.state"), cell: (segment) => segment.state === "open" ? badge("move", "move", t("log.open")) : badge("quiet", "done", t("log.finished")) },
      ], log.segments))),
      h("details", {}, h("summary", {}, t("log.cursors")), h("div", { class: "scroll" }, table(t("log.cursors"), [
        { title: t("log.cursor"), class: "wide", cell: (cursor) => h("code", {}, cursor.name) },
        { title: t("processing.checkpoint"), class: "number", cell: (cursor) => count(cursor.checkpoint) },
        { title: t("processing.lag"), class: "number", cell: (cursor) => count(cursor.lag) },
      ], log.cursors))))];
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
