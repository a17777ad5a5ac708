import { useEffect, useReducer } from "preact/hooks";
import type { Live } from "./live.js";

/** Draws the component again whenever one of these changes: once per frame. */
export function useLive(...sources: Live[]): void {
  const [, redraw] = useReducer((count: number) => count + 1, 0);
  useEffect(() => {
    const stops = sources.map((source) => source.subscribe(() => redraw(undefined)));
    redraw(undefined); // what happened between drawing and subscribing
    return () => {
      for (const stop of stops) stop();
    };
  }, sources);
}
