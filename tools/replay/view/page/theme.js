// Light or dark: as the system says, until the button says otherwise.

import { byId } from "./dom.js";
import { forgetColours } from "./palette.js";

const KEY = "tokenreel-theme";
const systemIsDark = window.matchMedia("(prefers-color-scheme: dark)");

export function setUpTheme(onChange) {
  const apply = () => {
    const theme = chosen() ?? (systemIsDark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = theme;
    byId("theme").setAttribute(
      "aria-label",
      theme === "dark" ? "Use light colours" : "Use dark colours",
    );
    forgetColours();
    onChange();
  };
  byId("theme").addEventListener("click", () => {
    remember(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    apply();
  });
  systemIsDark.addEventListener("change", apply);
  apply();
}

// A browser that keeps nothing for pages still shows them.
function chosen() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

function remember(theme) {
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    document.documentElement.dataset.theme = theme;
  }
}
