// The events of the log, from any offset on, or as they come.

import { call, parse, pretty, RequestError, send } from "./api.js";
import { h, icon, replace } from "./dom.js";
import { live } from "./live.js";
import { bytes, count, duration, percent } from "./format.js";
import { badge, empty, facts, failed, field, loading, moment, panel, table, timeAgo } from "./parts.js";
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
  const stream = query.get("stream") ?? "";
  const follows = query.get("follow") === "yes" && stream === "";
  const end = live.tick?.logEnd ?? 0;
  const wanted = /^[0-9]{1,15}$/.test(query.get("from") ?? "") ? Number(query.get("from")) : null;
  // A stream begins with its first event, the log with its last ones.
  const from = wanted ?? (stream ? 1 : Math.max(0, end - pageSize));
  const address = (changes) => {
    const next = new URLSearchParams(Object.entries({ from: String(from), type, stream, follow: follows ? "yes" : "", ...changes }).filter(([, value]) => value !== ""));
    return `#/log?${next}`;
  };

  const offset = h("input", { name: "from", inputMode: "numeric", value: String(from), autocomplete: "off" });
  const kind = h("select", { name: "type" }, h("option", { value: "" }, t("log.allTypes")), types.map((name) => h("option", { value: name, selected: name === type }, t(`event.${name}`))));
  const name = h("input", { name: "stream", value: stream, autocomplete: "off", spellcheck: false, placeholder: "pay:…" });
  const place = h("div", {}, loading(8));
  const state = h("p", { class: "soft", role: "status" });
  const pager = h("div", { class: "actions" });
  const files = h("div", { class: "stack" }, loading(3));
  replace(root, h("div", { class: "page-head" }, h("h1", { tabIndex: -1 }, t("page.log"))), files,
    panel(stream ? t("log.eventsOf", { stream }) : t("log.events"), { actions: [
      !stream && h("a", { class: "button small", href: address({ follow: follows ? "" : "yes", from: follows ? String(from) : String(end) }), "aria-current": follows ? "true" : undefined },
        icon(follows ? "pause" : "play", 14), t(follows ? "log.stop" : "log.follow"))] },
    h("form", { class: "filters", on: { submit: (event) => {
      event.preventDefault();
      const other = name.value.trim();
      // The number means an offset, or in a stream a version: one can't become the other.
      location.hash = address({ from: other === stream ? offset.value.trim().replace(/[^0-9]/g, "") || "0" : "", stream: other, type: other ? "" : kind.value, follow: "" });
    } } }, field(t(stream ? "log.fromVersion" : "log.from"), offset), !stream && field(t("log.type"), kind), field(t("log.stream"), name), h("button", { type: "submit" }, t("log.go"))),
    place, h("div", { class: "pager" }, state, pager)));
  kind.addEventListener("change", () => { location.hash = address({ type: kind.value }); });

  call("/api/v1/log").then((log) => { if (isCurrent()) replace(files, engine(log)); },
    (error) => { if (isCurrent()) replace(files, failed(error)); });

  let events = [];
  let missing = [];
  let next = null;
  let isDrawn = true;
  const draw = () => {
    isDrawn = true;
    if (!isCurrent()) return;
    const opened = new Set([...place.querySelectorAll("details[open]")].map((element) => element.dataset.offset));
    replace(place, events.length === 0 ? empty(t("log.none"), t(next === null ? "log.noneText" : "log.noneHere"))
      : h("ol", { class: "events" }, (follows ? events.toReversed() : events).map((event) => h("li", {}, one(event, opened.has(String(event.offset)), stream !== "")))));
    if (missing.length > 0) place.append(h("p", { class: "failed", role: "alert" }, icon("warn"), t("log.missing", { count: missing.reduce((sum, range) => sum + range.events, 0) })));
    state.textContent = follows ? t("log.following") : "";
    const least = stream ? 1 : 0;
    replace(pager, !follows && from > least && h("a", { class: "button small", href: address({ from: String(Math.max(least, from - pageSize)) }) }, t("payments.previous")),
      !follows && next !== null && h("a", { class: "button small", href: address({ from: String(next) }), data: { focus: "next" } }, t("payments.next")),
      !follows && h("a", { class: "button small", href: "#/log" }, t("log.toEnd")));
  };

  async function browse() {
    const parameters = new URLSearchParams({ from: String(from), limit: String(pageSize), ...(stream ? { stream } : type ? { type } : {}) });
    const page = await call(`/api/v1/log/events?${parameters}`);
    [events, next, missing] = [page.events, page.next, page.missing];
    draw();
  }

  try {
    if (follows) {
      await read(from, type, controller.signal, (event) => {
        events.push(event);
        if (events.length > keptLimit) events.shift();
        if (isDrawn) {
          isDrawn = false;
          setTimeout(draw, 500);
        }
      }, () => draw());
    } else {
      await browse();
    }
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    if (isCurrent()) replace(place, failed(error));
  }
  return { close: () => controller.abort() };
}

/// An event that can be opened: as JSON, and its bytes.
function one(event, isOpen, isStream) {
  const dump = h("div", {});
  return h("details", { data: { offset: String(event.offset) }, open: isOpen },
    h("summary", {}, icon("down", 14), h("span", { class: "mono number" }, String(event.offset)), h("b", {}, t(`event.${event.type}`)), h("span", {}, moment(event.timestamp)),
      h("code", {}, event.eventId)),
    h("pre", { class: "json", tabIndex: 0 }, pretty(event)),
    h("p", { class: "actions" }, event.stream.startsWith("pay:") && h("a", { href: `#/payments/${event.stream.slice(4)}` }, t("log.payment")),
      !isStream && h("a", { href: `#/log?${new URLSearchParams({ stream: event.stream })}` }, t("log.itsStream")),
      h("button", { type: "button", class: "small", data: { focus: `bytes-${event.offset}` }, on: { click: async () => {
        if (dump.childElementCount > 0) return replace(dump);
        try {
          replace(dump, hex(await call(`/api/v1/log/events/${event.offset}`)));
        } catch (error) {
          if (!(error instanceof RequestError)) throw error;
          replace(dump, failed(error));
        }
      } } }, t("log.bytes"))), dump);
}

/// The bytes of an event's data, sixteen to a line.
function hex(event) {
  const data = Uint8Array.from(atob(event.base64), (character) => character.charCodeAt(0));
  const lines = [];
  for (let start = 0; start < data.length; start += 16) {
    const part = [...data.subarray(start, start + 16)];
    const digits = part.map((byte) => byte.toString(16).padStart(2, "0")).join(" ").padEnd(47);
    lines.push(`${start.toString(16).padStart(6, "0")}  ${digits}  ${part.map((byte) => byte >= 32 && byte < 127 ? String.fromCharCode(byte) : ".").join("")}`);
  }
  return [h("p", { class: "soft" }, t("log.bytesOf", { count: event.bytes, id: event.id }), data.length < event.bytes && ` ${t("log.bytesCut", { count: data.length })}`),
    h("pre", { class: "json hex", tabIndex: 0, "aria-label": t("log.bytes") }, lines.join("\n"))];
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
        [t("log.backup"), log.backup === null ? t("log.noBackup") : backup(log.backup)],
        log.gaps.length > 0 && [t("log.gaps"), h("ul", {}, log.gaps.map((gap) => h("li", {}, t("log.gap", { offset: gap.offset, count: gap.events }))))],
      ]), scrub?.findings.length > 0 && h("ul", {}, scrub.findings.map((finding) => h("li", { class: "reason" }, finding))),
      h("details", {}, h("summary", {}, t("log.segments")), h("div", { class: "scroll" }, table(t("log.segments"), [
        { title: t("log.file"), class: "wide", cell: (segment) => h("code", {}, segment.file) },
        { title: t("log.from"), class: "number labelled", cell: (segment) => h("a", { href: `#/log?from=${segment.offset}` }, count(segment.offset)) },
        { title: t("log.events"), class: "number labelled", cell: (segment) => count(segment.events) },
        { title: t("log.size"), class: "number labelled", cell: (segment) => bytes(segment.bytes) },
        { title: t("log.changed"), class: "labelled", cell: (segment) => moment(segment.changedAt) },
        { title: t("payment.state"), cell: (segment) => segment.state === "open" ? badge("move", "move", t("log.open")) : badge("quiet", "done", t("log.finished")) },
      ], log.segments))),
      h("details", {}, h("summary", {}, t("log.cursors")), h("div", { class: "scroll" }, table(t("log.cursors"), [
        { title: t("log.cursor"), class: "wide", cell: (cursor) => h("code", {}, cursor.name) },
        { title: t("processing.checkpoint"), class: "number labelled", cell: (cursor) => count(cursor.checkpoint) },
        { title: t("processing.lag"), class: "number labelled", cell: (cursor) => count(cursor.lag) },
      ], log.cursors))))];
}

function backup({ directory, time, lag, fault }) {
  return [time !== null && [timeAgo(time), ", ", t("log.backupLag", { count: lag }), fault === null && [", ", t("log.backupChecked")], " "], fault !== null && h("span", { class: "reason" }, badge("bad", "warn", t("log.backupFault")), " ", fault),
    time === null && fault === null && t("loading"), h("span", { class: "soft reason" }, ` ${directory}`)];
}

/// Follows the log until the page is left.
async function read(from, type, signal, take, ready) {
  const response = await send(`/api/v1/events?from=${from}${type ? `&type=${type}` : ""}`, { signal });
  if (!response.ok) {
    const problem = parse(await response.text());
    throw new RequestError(response.status, problem.detail ?? response.statusText);
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  ready();
  (async () => {
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data: ")) take(parse(line.slice(6)));
    }
  // A stream that breaks off shows as the page's state does: the server is away.
  })().catch((error) => { if (error.name !== "AbortError" && !(error instanceof TypeError)) throw error; }).then(ready);
}
