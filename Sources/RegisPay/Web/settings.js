// What a person has chosen for this browser. Nothing here is secret.

const prefix = "regispay-";

function read(name) {
  try {
    return localStorage.getItem(prefix + name);
  } catch {
    // A browser may forbid it; then choices last until the tab is closed.
    return null;
  }
}

/// What was read or chosen: a page asks for the language for each of its texts.
const memory = new Map();
// Another tab has changed it.
addEventListener("storage", (event) => { if (event.key === null) memory.clear(); else memory.delete(event.key.slice(prefix.length)); });

export function setting(name, fallback) {
  if (!memory.has(name)) memory.set(name, read(name));
  return memory.get(name) ?? fallback;
}

export function setSetting(name, value) {
  memory.set(name, value);
  try {
    localStorage.setItem(prefix + name, value);
  } catch {
    // The same as in read.
  }
}

/// "system", "light" or "dark".
export function applyTheme() {
  const theme = setting("theme", "system");
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}
