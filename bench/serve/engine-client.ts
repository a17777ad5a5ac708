import type { Engine, GenerateOptions } from "stable-diffcoder/engine";
import type { Send } from "./load.js";

/** Sends requests to an engine in this process. */
export function engineSender(engine: Engine, options: GenerateOptions): Send {
  return async (item, timeline, signal) => {
    const settings: GenerateOptions = { ignoreEos: true, events: "text", ...options, maxTokens: item.tokens };
    try {
      for await (const event of engine.generate(item.ids, settings, { signal })) {
        const at = performance.now();
        if (event.type === "text") {
          timeline.marks.push({ at, tokens: (timeline.marks.at(-1)?.tokens ?? 0) + event.ids.length });
        } else if (event.type === "done" && event.finishReason === "length") {
          timeline.ended = at;
          timeline.forwards = event.usage.forwards;
        }
      }
    } catch (error) {
      timeline.error = error instanceof Error ? error.message : String(error);
    }
  };
}
