// Numbers, amounts and times as people read them, in the language of the page.

import { language, t } from "./text.js";
import { setting } from "./settings.js";

const kept = new Map();
function made(kind, options) {
  const name = `${kind.name} ${language()} ${JSON.stringify(options)}`;
  if (!kept.has(name)) kept.set(name, new kind(language(), options));
  return kept.get(name);
}

/// An amount with its currency. The amount is a text, and each of its digits is shown.
export function money(amount, currency) {
  try {
    return made(Intl.NumberFormat, { style: "currency", currency }).format(amount);
  } catch {
    // The browser doesn't know such a currency.
    return `${amount} ${currency}`;
  }
}

/// Whether an amount is more than zero. Looks at the digits only: nothing computes with amounts.
export const isPositive = (amount) => /[1-9]/.test(amount ?? "");

export const count = (value) => value === null || value === undefined ? "–" : made(Intl.NumberFormat, {}).format(value);

export const rate = (value) => value === null || value === undefined ? "–"
  : made(Intl.NumberFormat, { maximumFractionDigits: value < 10 ? 1 : 0 }).format(value);

export const percent = (share) => made(Intl.NumberFormat, { style: "percent", maximumFractionDigits: share < 0.999 ? 1 : 2 }).format(share);

/// A size. A round number of KiB, MiB and so on was chosen as one, and is shown as one.
export function bytes(value) {
  if (value === null || value === undefined) return "–";
  const binary = ["", "KiB", "MiB", "GiB", "TiB"];
  for (let at = binary.length - 1; at > 0; at -= 1) {
    if (value > 0 && value < 1024 ** (at + 1) && value % 1024 ** at === 0) return `${count(value / 1024 ** at)} ${binary[at]}`;
  }
  const units = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"];
  let at = 0;
  while (value >= 1000 && at < units.length - 1) { value /= 1000; at += 1; }
  return made(Intl.NumberFormat, { style: "unit", unit: units[at], unitDisplay: "short", maximumFractionDigits: value < 10 && at > 0 ? 1 : 0 })
    .format(value);
}

/// A length of time, as long as a person needs it.
export function duration(milliseconds) {
  if (milliseconds === null || milliseconds === undefined) return "–";
  const unit = (value, name, digits = 0) =>
    made(Intl.NumberFormat, { style: "unit", unit: name, unitDisplay: "short", maximumFractionDigits: digits }).format(value);
  if (milliseconds < 1) return unit(milliseconds, "millisecond", 2);
  if (milliseconds < 1_000) return unit(milliseconds, "millisecond", milliseconds < 10 ? 1 : 0);
  const seconds = milliseconds / 1_000;
  if (seconds < 60) return unit(seconds, "second", seconds < 10 ? 1 : 0);
  if (seconds < 3_600) return `${unit(Math.floor(seconds / 60), "minute")} ${unit(Math.floor(seconds % 60), "second")}`;
  if (seconds < 86_400) return `${unit(Math.floor(seconds / 3_600), "hour")} ${unit(Math.floor(seconds % 3_600 / 60), "minute")}`;
  // Nobody means the hours after so many days.
  if (seconds >= 864_000) return unit(Math.floor(seconds / 86_400), "day");
  return `${unit(Math.floor(seconds / 86_400), "day")} ${unit(Math.floor(seconds % 86_400 / 3_600), "hour")}`;
}

const zone = () => setting("times", "local") === "utc" ? { timeZone: "UTC" } : {};
const isToday = (date) => {
  const now = new Date();
  return date.getDate() === now.getDate() && date.getMonth() === now.getMonth() && date.getFullYear() === now.getFullYear();
};

/// The time alone for today, with the date otherwise.
export function time(text, { seconds = true, date = undefined } = {}) {
  const at = new Date(text);
  const withDate = date ?? !isToday(at);
  return made(Intl.DateTimeFormat, {
    ...(withDate ? { year: "numeric", month: "short", day: "numeric" } : {}),
    hour: "2-digit", minute: "2-digit", ...(seconds ? { second: "2-digit" } : {}), hourCycle: "h23", ...zone(),
  }).format(at) + (zone().timeZone ? " UTC" : "");
}

/// Date and time to the millisecond, local and UTC.
export function exactTime(text) {
  const at = new Date(text);
  const options = { year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit",
    fractionalSecondDigits: 3, hourCycle: "h23", timeZoneName: "short" };
  return `${made(Intl.DateTimeFormat, options).format(at)}\n${made(Intl.DateTimeFormat, { ...options, timeZone: "UTC" }).format(at)}`;
}

/// "3 minutes ago", "in 5 seconds".
export function ago(milliseconds) {
  const seconds = Math.round((milliseconds - Date.now()) / 1_000);
  const relative = made(Intl.RelativeTimeFormat, { numeric: "auto" });
  const size = Math.abs(seconds);
  if (size < 60) return relative.format(seconds, "second");
  if (size < 3_600) return relative.format(Math.trunc(seconds / 60), "minute");
  if (size < 86_400) return relative.format(Math.trunc(seconds / 3_600), "hour");
  return relative.format(Math.trunc(seconds / 86_400), "day");
}

export const statusText = (status) => t(`status.${status}`);
