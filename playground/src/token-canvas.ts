import { applyPass, type Pass, type Recording, type Token, undoPass } from "./recording.js";

/** What {@link TokenCanvas.show} draws. */
export interface Scene {
  recording: Recording;
  /** The pass after which the canvas is shown; 0: before the first. */
  pass: number;
  /** Cells, committed or not. */
  length: number;
  /** Cells from here on are no part of the text: what follows a stop. undefined: all are. */
  textLength: number | undefined;
  /** Position of the token that is looked at. */
  selected: number | undefined;
}

/**
 * The canvas: one element per token. Only cells that differ from the last scene are touched, so a scene costs what changed,
 * not what is there.
 */
export class TokenCanvas {
  readonly #root: HTMLElement;
  readonly #spans: HTMLSpanElement[] = [];
  #cells: (Token | undefined)[] = [];
  #pass = 0;
  #scene: Scene | undefined;

  constructor(root: HTMLElement) {
    this.#root = root;
  }

  show(scene: Scene): void {
    const { recording, length } = scene;
    const last = this.#scene;
    const dirty = new Set<number>();
    if (last?.recording !== recording) {
      this.#cells = [];
      this.#pass = 0;
      for (let i = 0; i < length; i++) dirty.add(i);
    }
    const { passes, origin } = recording;
    const touch = (pass: Pass | undefined) => {
      if (!pass) return;
      for (let i = Math.max(0, pass.start - origin); i < pass.end - origin; i++) dirty.add(i);
      for (const { position } of pass.committed) dirty.add(position - origin);
      for (const { position } of pass.remasked) dirty.add(position - origin);
    };
    touch(passes[this.#pass - 1]);
    while (this.#pass < scene.pass) {
      touch(passes[this.#pass]);
      applyPass(this.#cells, passes[this.#pass++], origin);
    }
    while (this.#pass > scene.pass) {
      touch(passes[--this.#pass]);
      undoPass(this.#cells, passes[this.#pass], origin);
    }
    touch(passes[scene.pass - 1]);
    for (const each of [last?.selected, scene.selected]) if (each !== undefined) dirty.add(each - origin);
    if (last?.textLength !== scene.textLength) {
      for (let i = Math.min(last?.textLength ?? length, scene.textLength ?? length); i < length; i++) dirty.add(i);
    }
    this.#resize(length, dirty);
    this.#scene = scene;
    for (const each of dirty) if (each >= 0 && each < length) this.#paint(each, scene);
  }

  /** Position of the token that an element of the canvas belongs to. */
  positionOf(element: EventTarget | null): number | undefined {
    const offset = element instanceof HTMLSpanElement ? element.dataset.offset : undefined;
    const origin = this.#scene?.recording.origin ?? -1;
    return offset === undefined || origin < 0 ? undefined : Number(offset) + origin;
  }

  /** The token at a position, as it is shown; undefined for a mask. */
  tokenAt(position: number): Token | undefined {
    return this.#cells[position - (this.#scene?.recording.origin ?? 0)];
  }

  #resize(length: number, dirty: Set<number>): void {
    const added = document.createDocumentFragment();
    for (let i = this.#spans.length; i < length; i++) {
      const span = document.createElement("span");
      span.dataset.offset = String(i);
      this.#spans.push(span);
      added.append(span);
      dirty.add(i);
    }
    this.#root.append(added);
    while (this.#spans.length > length) this.#spans.pop()?.remove();
  }

  #paint(offset: number, { recording, pass, textLength, selected }: Scene): void {
    const span = this.#spans[offset];
    const token = this.#cells[offset];
    const current = recording.passes[pass - 1];
    const position = offset + recording.origin;
    const classes = ["t"];
    if (token) {
      classes.push(`h${heat(token.logprob)}`);
      if (token.pass === pass) classes.push("new");
      if (/^\n\s*$/.test(token.text)) classes.push("nl"); // else nothing of it could be seen
      if (textLength !== undefined && offset >= textLength) classes.push("cut");
    } else {
      // Blocks come in order, so what lies before the current block's end has been reached.
      classes.push(current && position < current.end ? "mask" : "later");
    }
    if (current && position >= current.start && position < current.end) {
      classes.push("in");
      if (position === Math.max(current.start, recording.origin)) classes.push("first");
      if (position === current.end - 1) classes.push("last");
    }
    if (position === selected && recording.origin >= 0) classes.push("selected");
    const name = classes.join(" ");
    if (span.className !== name) span.className = name;
    const text = token ? visible(token.text) : "";
    if (span.textContent !== text) span.textContent = text;
  }
}

/** 0: sure (p above 0.95), to 5: below 0.35. */
export function heat(logprob: number | null): number {
  if (logprob === null) return 0;
  const p = Math.exp(logprob);
  return [0.95, 0.8, 0.65, 0.5, 0.35].filter((bound) => p < bound).length;
}

/** Text whose control characters can be seen. */
export function visible(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  return text.replace(/[\x00-\x08\x0b-\x1f\x7f]/g, (character) => {
    const code = character.charCodeAt(0);
    return code === 0x7f ? "\u2421" : String.fromCharCode(0x2400 + code);
  });
}
