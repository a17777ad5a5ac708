import { useEffect, useRef } from "preact/hooks";
import type { Player } from "./player.js";

export interface KeyActions {
  start: () => void;
  cancel: () => void;
}

/** Keys of the whole page: Ctrl+Enter runs, Escape cancels, arrows, Home, End and space move through the passes. */
export function useKeyboard(actions: KeyActions, player: Player): void {
  const latest = useRef(actions);
  latest.current = actions;
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => handleKey(event, latest.current, player);
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, [player]);
}

function handleKey(event: KeyboardEvent, actions: KeyActions, player: Player): void {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    actions.start();
    return;
  }
  if (event.key === "Escape") {
    actions.cancel();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || player.end === 0) return;
  const target = event.target instanceof Element ? event.target : undefined;
  if (target?.closest("input, textarea, select")) return; // they have uses of their own for these keys
  const steps: Record<string, () => void> = {
    ArrowLeft: () => player.step(-1),
    ArrowRight: () => player.step(1),
    Home: () => player.step(Number.NEGATIVE_INFINITY),
    End: () => player.step(Number.POSITIVE_INFINITY),
    ...(!target?.closest("button, summary, a") && { " ": () => player.toggle() }),
  };
  const step = steps[event.key];
  if (!step) return;
  event.preventDefault();
  step();
}
