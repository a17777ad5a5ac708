export interface Alternative {
  text: string;
  logprob: number;
}

/** A token at the moment a pass committed it. */
export interface Token {
  /** From the prompt's first token. */
  position: number;
  id: number;
  text: string;
  /** null: the server told none. */
  logprob: number | null;
  /** The most likely tokens of that pass, in the order of their probability. */
  alternatives: Alternative[];
  /** Number of the pass in the recording, from 1. */
  pass: number;
}

/** One forward pass: of diffusion over one block, of AR decoding over one token. */
export interface Pass {
  /** From 1. */
  number: number;
  block: number;
  step: number;
  /** The block's first position and the one after its last. */
  start: number;
  end: number;
  masksLeft: number;
  committed: Token[];
  /** Tokens that were committed before and are masked again. */
  remasked: Token[];
  /** Milliseconds since the request. */
  at: number;
}

export type NewPass = Omit<Pass, "number" | "remasked" | "committed"> & {
  committed: Omit<Token, "pass">[];
  remasked: number[];
};

/** Every pass of one run, so that any moment of it can be shown again. */
export class Recording {
  readonly passes: Pass[] = [];
  /** Position of the first generated token; unknown before the first pass. */
  origin = -1;
  /** Positions from the origin that blocks have reached. */
  length = 0;
  readonly #cells: (Token | undefined)[] = [];

  append({ committed, remasked, ...rest }: NewPass): Pass {
    const number = this.passes.length + 1;
    const tokens = committed.map((token) => ({ ...token, pass: number }));
    // The first block may begin with the prompt's remainder; its masks say where the output begins.
    if (this.origin < 0) this.origin = rest.end - rest.masksLeft - committed.length;
    const again: Token[] = [];
    for (const position of remasked) {
      const token = this.#cells[position - this.origin];
      if (token) again.push(token);
    }
    const pass = { number, ...rest, committed: tokens, remasked: again };
    applyPass(this.#cells, pass, this.origin);
    this.passes.push(pass);
    this.length = Math.max(this.length, rest.end - this.origin);
    return pass;
  }

  /** Tokens that are committed now. */
  get committed(): number {
    let count = 0;
    for (const cell of this.#cells) if (cell) count++;
    return count;
  }
}

/** Takes cells from before a pass to after it. */
export function applyPass(cells: (Token | undefined)[], pass: Pass, origin: number): void {
  for (const token of pass.remasked) cells[token.position - origin] = undefined;
  for (const token of pass.committed) cells[token.position - origin] = token;
}

/** Takes cells from after a pass to before it. */
export function undoPass(cells: (Token | undefined)[], pass: Pass, origin: number): void {
  for (const token of pass.committed) cells[token.position - origin] = undefined;
  for (const token of pass.remasked) cells[token.position - origin] = token;
}
