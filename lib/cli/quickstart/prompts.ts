import type { PreparedData } from "../../data/index.js";
import type { Tokenizer } from "../../tokenizer/index.js";

/** The beginning of a held-out document. */
export interface Prompt {
  document: string;
  ids: number[];
}

const MIN_TOKENS = 40;
const MAX_TOKENS = 96;

/** Beginnings of `count` held-out documents from as many equal parts of the held-out text, each cut after a line. */
export function heldOutPrompts(data: PreparedData, tokenizer: Tokenizer, count: number): Prompt[] {
  const { heldOut } = data.store;
  const prompts: Prompt[] = [];
  for (let part = 0; part < count; part++) {
    const middle = heldOut.documentAt(Math.floor(((part + 0.5) * heldOut.numTokens) / count));
    for (let i = middle; i < heldOut.numDocuments; i++) {
      const document = heldOut.documentName(i) ?? `document ${i}`;
      if (prompts.some((prompt) => prompt.document === document)) continue;
      const ids = cutAfterLine(Array.from(heldOut.document(i)), tokenizer);
      if (ids === undefined) continue;
      prompts.push({ document, ids });
      break;
    }
  }
  return prompts;
}

function cutAfterLine(ids: number[], tokenizer: Tokenizer): number[] | undefined {
  if (ids.length < 2 * MAX_TOKENS) return undefined;
  for (let end = MIN_TOKENS; end <= MAX_TOKENS; end++) {
    if (tokenizer.decode([ids[end - 1]]).includes("\n")) return ids.slice(0, end);
  }
  return ids.slice(0, MAX_TOKENS);
}
