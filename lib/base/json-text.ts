/** Maximum nesting of lists and objects. Real files are far below it; deeper ones would exhaust the stack. */
export const MAX_JSON_DEPTH = 512;

/**
 * JSON.parse for untrusted text: skips a byte order mark and limits the nesting.
 *
 * @throws SyntaxError, for invalid JSON or too deep nesting
 */
export function parseJsonText(text: string): unknown {
  return JSON.parse(boundedJsonText(text));
}

/**
 * Prepares a text for another parser: checks the nesting and removes a byte order mark.
 *
 * @throws SyntaxError for too deep nesting
 */
export function boundedJsonText(text: string): string {
  if (isDeeper(text, MAX_JSON_DEPTH)) throw new SyntaxError(`more than ${MAX_JSON_DEPTH} levels of nesting`);
  return text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
}

/**
 * Whether lists and objects are nested more than `levels` deep. The result is undefined for invalid JSON. Takes one
 * pass over the text.
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

/** The end of the string that starts at `start`, -1 if it is not terminated. */
function endOfString(text: string, start: number): number {
  for (let end = text.indexOf('"', start + 1); end >= 0; end = text.indexOf('"', end + 1)) {
    let slashes = 0;
    while (text.charCodeAt(end - 1 - slashes) === BACKSLASH) slashes++;
    if (slashes % 2 === 0) return end;
  }
  return -1;
}
