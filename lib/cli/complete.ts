import colors from "picocolors";
import {
  type AutoregressiveGenerationOptions,
  type BlockGenerationOptions,
  type DenoiseEvent,
  type DoneEvent,
  generateAutoregressive,
  generateBlocks,
} from "../diffusion/index.js";
import type { StableDiffCoder, Tokenizer } from "../model/index.js";
import { Canvas, type Cell, paint, printable } from "./canvas.js";

/** Where a completion is shown. */
export interface Screen {
  stream: NodeJS.WriteStream;
  /** Redraw while it denoises; false: only the result. */
  live: boolean;
  /** Milliseconds to rest after each frame, so that a person can follow a fast model. */
  pause?: number;
}

export interface Completion {
  text: string;
  tokens: number;
  forwards: number;
  seconds: number;
  finishReason: DoneEvent["finishReason"];
}

/** Completes a prompt by block diffusion; on a live screen the canvas is drawn as it denoises. */
export async function completeByDiffusion(
  coder: StableDiffCoder,
  prompt: readonly number[],
  options: BlockGenerationOptions,
  screen?: Screen,
): Promise<Completion> {
  const { tokenizer } = coder;
  const head = headOf(prompt, tokenizer, screen);
  const canvas = screen?.live ? new Canvas(screen.stream) : undefined;
  const sure = new Map<number, number>();
  return timed(tokenizer, async () => {
    let done: DoneEvent | undefined;
    for await (const event of generateBlocks(coder.model, prompt, options)) {
      if (event.type === "denoise" && canvas) {
        canvas.draw(head + paint(cellsOf(event, prompt.length, sure), tokenizer));
        if (screen?.pause) await new Promise((resolve) => setTimeout(resolve, screen.pause));
      } else if (event.type === "done") done = event;
    }
    return show(done as DoneEvent, head, tokenizer, screen, canvas, sure, prompt.length);
  });
}

/** Completes a prompt token by token. */
export async function completeAutoregressively(
  coder: StableDiffCoder,
  prompt: readonly number[],
  options: AutoregressiveGenerationOptions,
  screen?: Screen,
): Promise<Completion> {
  const { tokenizer } = coder;
  const head = headOf(prompt, tokenizer, screen);
  const canvas = screen?.live ? new Canvas(screen.stream) : undefined;
  const sure = new Map<number, number>();
  const ids: number[] = [];
  return timed(tokenizer, async () => {
    let done: DoneEvent | undefined;
    for await (const event of generateAutoregressive(coder.model, prompt, options)) {
      if (event.type === "token") {
        ids.push(event.id);
        sure.set(event.position, event.confidence);
        canvas?.draw(head + paint(settledCells(ids, prompt.length, sure), tokenizer));
        if (canvas && screen?.pause) await new Promise((resolve) => setTimeout(resolve, screen.pause));
      } else done = event;
    }
    return show(done as DoneEvent, head, tokenizer, screen, canvas, sure, prompt.length);
  });
}

function cellsOf(event: DenoiseEvent, from: number, sure: Map<number, number>): Cell[] {
  for (const position of event.committed) sure.set(position, event.confidence[position - event.start]);
  return Array.from(event.canvas, (id, i) => {
    const confidence = sure.get(from + i);
    return { id, masked: confidence === undefined, confidence: confidence ?? null };
  });
}

function settledCells(ids: readonly number[], from: number, sure: Map<number, number>): Cell[] {
  return ids.map((id, i) => ({ id, masked: false, confidence: sure.get(from + i) ?? null }));
}

/** The prompt, as it stands before what is generated. */
function headOf(prompt: readonly number[], tokenizer: Tokenizer, screen: Screen | undefined): string {
  if (!screen) return "";
  const text = tokenizer.decode(prompt);
  if (!screen.stream.isTTY) return text;
  // Line by line: some terminals colour the rest of a line behind a colour that runs on.
  return printable(text).split("\n").map(colors.dim).join("\n");
}

function show(
  done: DoneEvent,
  head: string,
  tokenizer: Tokenizer,
  screen: Screen | undefined,
  canvas: Canvas | undefined,
  sure: Map<number, number>,
  from: number,
): DoneEvent {
  if (canvas) canvas.finish(head + paint(settledCells(done.ids, from, sure), tokenizer));
  else if (screen) {
    const text = tokenizer.decode(done.ids);
    screen.stream.write(`${head}${screen.stream.isTTY ? printable(text) : text}\n`);
  }
  return done;
}

async function timed(tokenizer: Tokenizer, run: () => Promise<DoneEvent>): Promise<Completion> {
  const start = performance.now();
  const { ids, forwards, finishReason } = await run();
  const seconds = (performance.now() - start) / 1000;
  return { text: tokenizer.decode(ids), tokens: ids.length, forwards, seconds, finishReason };
}
