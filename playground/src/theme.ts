import { Store } from "./storage.js";

const KEY = "diffcoder-theme";
const local = new Store("localStorage");

export type Theme = "light" | "dark";

const system = () => (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");

/** What the reader chose, else what the system asks for. */
export function currentTheme(): Theme {
  const chosen = local.get(KEY);
  return chosen === "light" || chosen === "dark" ? chosen : system();
}

/** A choice that agrees with the system is forgotten, so that the page goes on following it. */
export function setTheme(theme: Theme): void {
  local.set(KEY, theme === system() ? "" : theme);
  applyTheme();
}

export function applyTheme(): void {
  const chosen = local.get(KEY);
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  else delete document.documentElement.dataset.theme;
}
