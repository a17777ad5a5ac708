import { useState } from "preact/hooks";
import { count } from "./format.js";
import type { Model } from "./protocol.js";
import { currentTheme, setTheme } from "./theme.js";

/** Name, model, theme. */
export function Header({ model, onShare, shared }: { model: Model | undefined; onShare: () => void; shared: string }) {
  const [theme, choose] = useState(currentTheme());
  const other = theme === "dark" ? "light" : "dark";
  return (
    <header class="top">
      <h1>
        <svg viewBox="0 0 20 14" aria-hidden="true">
          <path d="M0 0h8v3H0zM10 5.5h10v3H10zM0 5.5h3v3H0z" />
          <path class="doubt" d="M10 0h10v3H10zM5 5.5h3v3H5zM0 11h12v3H0z" />
          <path d="M14 11h6v3h-6z" class="gap" />
        </svg>
        diffcoder
      </h1>
      <p class="model" title={model?.id}>
        {model && (
          <>
            <span class="name">{model.id}</span>
            {model.maxLength !== undefined && <span class="quiet"> · context {count(model.maxLength)}</span>}
          </>
        )}
      </p>
      <button type="button" class="plain" onClick={onShare}>
        {shared || "Copy link"}
      </button>
      <button
        type="button"
        class="plain"
        aria-label={`Switch to the ${other} theme`}
        onClick={() => {
          setTheme(other);
          choose(other);
        }}
      >
        {other === "dark" ? "Dark" : "Light"}
      </button>
    </header>
  );
}
