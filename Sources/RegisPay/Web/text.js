// The page's texts in the languages that it has. A text is asked for by name; `{name}` in it is replaced.

import { setting } from "./settings.js";
import { english } from "./text-en.js";
import { german } from "./text-de.js";

export const languages = { en: { name: "English", texts: english }, de: { name: "Deutsch", texts: german } };

export function language() {
  const chosen = setting("language", "");
  if (chosen in languages) return chosen;
  const wanted = navigator.languages.map((tag) => tag.slice(0, 2).toLowerCase()).find((tag) => tag in languages);
  return wanted ?? "en";
}

export function t(name, values = {}) {
  const texts = languages[language()].texts;
  let text = texts[name] ?? english[name] ?? name;
  // One form for one thing, another for several, by the rules of the language.
  if (typeof text === "object") {
    const form = new Intl.PluralRules(language()).select(values.count);
    text = text[form] ?? text.other;
  }
  return text.replace(/\{(\w+)\}/g, (all, key) => {
    const value = values[key];
    if (value === undefined) return all;
    return typeof value === "number" ? new Intl.NumberFormat(language()).format(value) : String(value);
  });
}
