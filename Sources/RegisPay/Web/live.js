// What the server says once a second, while the page is visible: its numbers, and so also that it is there.

import { call, parse, send, session } from "./api.js";

/// States: "connecting", "live", "polling" (the server has no stream left for this page), "lost", "paused" (the page is hidden),
/// "unread" (the key may not read).
export const live = {
  state: "connecting",
  /// When the last numbers came, in milliseconds of the browser's clock.
  since: null,
  tick: null,
};

const listeners = new Set();
/// Calls a listener at each tick and each change of the state. Returns what ends that.
export function onLive(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function change(state, tick) {
  const isNews = tick !== undefined || state !== live.state;
  live.state = state;
  if (tick) {
    live.tick = tick;
    live.since = Date.now();
  }
  if (isNews) for (const listener of [...listeners]) listener(live, tick !== undefined);
}

const silenceLimit = 12_000;
let controller = null;
let timer = null;
let failures = 0;

/// Begins, or begins again with another key.
export function follow() {
  stop();
  if (document.hidden) return change("paused");
  if (!session.may("read")) return;
  controller = new AbortController();
  run(controller.signal);
}

export function stop() {
  controller?.abort();
  controller = null;
  clearTimeout(timer);
}

document.addEventListener("visibilitychange", () => {
  if (!session.known || !session.may("read")) return;
  if (document.hidden) {
    stop();
    change("paused");
  } else {
    change("connecting");
    follow();
  }
});

async function run(signal) {
  try {
    await readStream(signal);
    throw new Error("the stream ended");
  } catch (error) {
    if (signal.aborted) return;
    if (error.status === 401) return;
    if (error.status === 503 || error.status === 429) return poll(signal);
    failures += 1;
    change("lost");
    again(signal, Math.min(500 * 2 ** Math.min(failures, 4), 5_000), run);
  }
}

function again(signal, milliseconds, next) {
  timer = setTimeout(() => { if (!signal.aborted) next(signal); }, milliseconds * (0.75 + Math.random() / 2));
}

// Reads with fetch, because an EventSource can't send a key.
async function readStream(signal) {
  const silence = new AbortController();
  signal.addEventListener("abort", () => silence.abort(), { once: true });
  let watchdog = setTimeout(() => silence.abort(), silenceLimit);
  try {
    const response = await send("/api/v1/activity/stream", { signal: silence.signal });
    if (!response.ok) {
      const error = new Error(response.statusText);
      error.status = response.status;
      throw error;
    }
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      clearTimeout(watchdog);
      watchdog = setTimeout(() => silence.abort(), silenceLimit);
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      const last = lines.findLast((line) => line.startsWith("data: "));
      if (last) {
        failures = 0;
        change("live", parse(last.slice(6)));
      }
    }
  } finally {
    clearTimeout(watchdog);
  }
}

/// Asks every five seconds where the server has no stream left, and for a stream again after a minute.
async function poll(signal) {
  for (let round = 0; round < 12 && !signal.aborted; round += 1) {
    try {
      const { tick } = await call("/api/v1/activity", { signal });
      change("polling", tick);
    } catch (error) {
      if (signal.aborted || error.status === 401) return;
      change("lost");
    }
    await new Promise((resolve) => { timer = setTimeout(resolve, 5_000); signal.addEventListener("abort", resolve, { once: true }); });
  }
  if (!signal.aborted) run(signal);
}
