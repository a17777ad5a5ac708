import { setTimeout as sleep } from "node:timers/promises";
import colors from "picocolors";
import type { StableDiffCoder } from "../checkpoint/index.js";
import {
  type BlockGenerationOptions,
  type CommittedToken,
  type DoneEvent,
  type GenerateOptions,
  generateAutoregressive,
  generateBlocks,
} from "../engine/index.js";
import type { Tokenizer } from "../tokenizer/index.js";
import { Canvas, type Cell, paint, printable } from "./canvas.js";

/** The terminal or stream on which a completion is shown. */
export interface Screen {
  stream: NodeJS.WriteStream;
  /** Whether to redraw during denoising; false: show only the result. */
  live: boolean;
  /** Milliseconds to pause after each frame, so that a fast model can be followed. */
  pause?: number;
}

export interface Completion {
  text: string;
  tokens: number;
  forwards: number;
  seconds: number;
  finishReason: DoneEvent["finishReason"];
}

/** Options of decoding. In AR decoding the options of blocks are ignored. */
export type CompletionOptions = Omit<BlockGenerationOptions, "n" | "suffix" | "events"> & Pick<GenerateOptions, "mode">;

/** Completes a prompt. On a live screen the canvas is drawn during denoising, or token by token in AR decoding. */
export async function complete(
  coder: StableDiffCoder,
  prompt: readonly number[],
  { mode, blockSize, steps, commit, remask, edit, shift, maskId, ...options }: CompletionOptions,
  screen?: Screen,
): Promise<Completion> {
  const { tokenizer } = coder;
  const head = headOf(prompt, tokenizer, screen);
  const canvas = screen?.live ? new Canvas(screen.stream) : undefined;
  const drawing = new Drawing(prompt.length);
  const ids: number[] = [];
  const start = performance.now();
  let done: DoneEvent | undefined;
  const common = { ...options, events: canvas ? "all" : "text" } as const;
  const ofBlocks = { blockSize, steps, commit, remask, edit, shift, maskId };
  const stream =
    mode === "autoregressive"
      ? generateAutoregressive(coder, prompt, common)
      : generateBlocks(coder, prompt, { ...common, ...ofBlocks });
  for await (const event of stream) {
    if (event.type === "denoise" && canvas) {
      drawing.add(event.committed, event.end);
      canvas.draw(head + paint(drawing.cells(), tokenizer));
      if (screen?.pause) await rest(screen.pause, options.signal);
    } else if (event.type === "text") {
      ids.push(...event.ids);
      drawing.add(event.tokens, 0);
    } else if (event.type === "done") done = event;
  }
  const seconds = (performance.now() - start) / 1000;
  const { finishReason = "error", usage } = done ?? {};
  if (canvas) canvas.finish(head + paint(drawing.cells(ids.length), tokenizer));
  else if (screen) {
    const text = tokenizer.decode(ids);
    screen.stream.write(`${head}${screen.stream.isTTY ? printable(text) : text}\n`);
  }
  return { text: tokenizer.decode(ids), tokens: ids.length, forwards: usage?.forwards ?? 0, seconds, finishReason };
}

/** Waits for a number of milliseconds, or until the signal is aborted. */
async function rest(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  await sleep(milliseconds, undefined, { signal }).catch(() => {});
}

/** The current state of the generated positions. */
class Drawing {
  readonly #from: number;
  readonly #tokens = new Map<number, CommittedToken>();
  #end = 0;

  constructor(from: number) {
    this.#from = from;
    this.#end = from;
  }

  add(tokens: readonly CommittedToken[], end: number): void {
    for (const token of tokens) this.#tokens.set(token.position, token);
    this.#end = Math.max(this.#end, end);
  }

  /** @param count number of tokens of the final text; default: the whole canvas */
  cells(count = this.#end - this.#from): Cell[] {
    return Array.from({ length: count }, (_, i) => {
      const token = this.#tokens.get(this.#from + i);
      if (!token) return { id: 0, masked: true, confidence: null };
      return { id: token.id, masked: false, confidence: Math.exp(token.logprob) };
    });
  }
}

/** The prompt, as shown before the generated text. */
function headOf(prompt: readonly number[], tokenizer: Tokenizer, screen: Screen | undefined): string {
  if (!screen) return "";
  const text = tokenizer.decode(prompt);
  if (!screen.stream.isTTY) return text;
  // Line by line, because some terminals color the rest of a line after a color that spans lines.
  return printable(text).split("\n").map(colors.dim).join("\n");
}
