/** Levels of lists and objects in each other. No file of this field comes near; deeper ones exhaust the stack later. */
export const MAX_JSON_DEPTH = 512;

/**
 * JSON.parse for text that others wrote: a byte order mark is passed over, and nesting is bounded.
 *
 * @throws SyntaxError, in V8's words or for the nesting
 */
export function parseJsonText(text: string): unknown {
  return JSON.parse(boundedJsonText(text));
}

/**
 * The same text for another parser: without a byte order mark.
 *
 * @throws SyntaxError for the nesting
 */
export function boundedJsonText(text: string): string {
  if (isDeeper(text, MAX_JSON_DEPTH)) throw new SyntaxError(`more than ${MAX_JSON_DEPTH} levels of nesting`);
  return text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
}

/**
 * Whether lists and objects stand in each other more than `levels` deep. What is no JSON may be judged either way, but
 * in one pass over the text.
 */
export function isDeeper(text: string, levels: number): boolean {
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === QUOTE) {
      i = endOfString(text, i);
      if (i < 0) return false;
    } else if (code === BRACKET || code === BRACE) {
      if (++depth > levels) return true;
    } else if (code === END_BRACKET || code === END_BRACE) depth--;
  }
  return false;
}

const [QUOTE, BACKSLASH, BRACKET, END_BRACKET, BRACE, END_BRACE] = [0x22, 0x5c, 0x5b, 0x5d, 0x7b, 0x7d];

/** Where the string ends that begins at `start`, -1 if it does not. */
function endOfString(text: string, start: number): number {
  for (let end = text.indexOf('"', start + 1); end >= 0; end = text.indexOf('"', end + 1)) {
    let slashes = 0;
    while (text.charCodeAt(end - 1 - slashes) === BACKSLASH) slashes++;
    if (slashes % 2 === 0) return end;
  }
  return -1;
}
