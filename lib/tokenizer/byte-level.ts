/**
 * Byte-level BPE writes each byte as one printable character (GPT-2): printable Latin-1 as itself, the 68 others from
 * U+0100 on.
 */
export const BYTE_OF_CHARACTER: ReadonlyMap<string, number> = makeByteTable();

function makeByteTable(): Map<string, number> {
  const table = new Map<string, number>();
  let others = 0;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    table.set(String.fromCharCode(printable ? byte : 256 + others++), byte);
  }
  return table;
}

/** By byte, the character it is written as. */
export const CHARACTER_OF_BYTE: readonly string[] = [...BYTE_OF_CHARACTER.keys()];

/** A text's bytes in UTF-8, each as its character. */
export function toByteCharacters(text: string): string {
  let characters = "";
  for (const byte of Buffer.from(text, "utf8")) characters += CHARACTER_OF_BYTE[byte];
  return characters;
}

/** The bytes that a byte-level token stands for; a token with any other character stands for its own UTF-8. */
export function bytesOfToken(token: string): Uint8Array {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = BYTE_OF_CHARACTER.get(token[i]);
    if (byte === undefined) return Buffer.from(token, "utf8");
    bytes[i] = byte;
  }
  return bytes;
}
