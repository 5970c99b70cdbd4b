// The page's texts in the languages that it has. A text is asked for by name; `{name}` in it is replaced.

import { setting } from "./settings.js";
import { english } from "./text-en.js";
import { german } from "./text-de.js";

export const languages = { en: { name: "English", texts: english }, de: { name: "Deutsch", texts: german } };

/// The first of the browser's languages that there is.
const preferred = navigator.languages.map((tag) => tag.slice(0, 2).toLowerCase()).find((tag) => tag in languages) ?? "en";

export function language() {
  const chosen = setting("language", "");
  return chosen in languages ? chosen : preferred;
}

const numbers = new Map();
const plurals = new Map();
/// Making one takes longer than a hundred uses.
function kept(made, kind, tag) {
  if (!made.has(tag)) made.set(tag, new kind(tag));
  return made.get(tag);
}

export function t(name, values = {}) {
  const texts = languages[language()].texts;
  let text = texts[name] ?? english[name] ?? name;
  // One form for one thing, another for several, by the rules of the language.
  if (typeof text === "object") {
    const form = kept(plurals, Intl.PluralRules, language()).select(values.count);
    text = text[form] ?? text.other;
  }
  if (!text.includes("{")) return text;
  return text.replace(/\{(\w+)\}/g, (all, key) => {
    const value = values[key];
    if (value === undefined) return all;
    return typeof value === "number" ? kept(numbers, Intl.NumberFormat, language()).format(value) : String(value);
  });
}
