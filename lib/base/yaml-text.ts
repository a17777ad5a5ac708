import { isMap, isScalar, LineCounter, parseDocument, visit } from "yaml";

/** Bytes of a YAML file. The parser's time grows with the square of some inputs. */
export const MAX_YAML_BYTES = 256 * 1024;

/**
 * The value of a YAML document that others wrote. Aliases count up to a limit, so that a few lines do not become
 * gigabytes, and may not lead round in a circle; a key may stand once in a mapping.
 *
 * @throws Error naming line and column where the text is wrong
 */
export function parseYaml(text: string): unknown {
  if (Buffer.byteLength(text) > MAX_YAML_BYTES) throw new Error(`it is longer than ${MAX_YAML_BYTES / 1024} KiB`);
  const lineCounter = new LineCounter();
  const at = (offset: number) => {
    const { line, col } = lineCounter.linePos(offset);
    return `at line ${line}, column ${col}`;
  };
  // The library's own messages and its search for repeated keys take quadratic time.
  const document = parseDocument(text, { lineCounter, prettyErrors: false, uniqueKeys: false });
  const [problem] = document.errors;
  if (problem) {
    const what = /call stack/.test(problem.message) ? "nested too deeply" : problem.message;
    throw new Error(`${what} ${at(problem.pos[0])}`, { cause: problem });
  }
  visit(document, {
    Map(_, { items }) {
      const seen = new Set<unknown>();
      for (const { key } of items) {
        const value = isScalar(key) ? key.value : key;
        if (seen.has(value)) {
          const offset = isScalar(key) || isMap(key) ? (key.range?.[0] ?? 0) : 0;
          throw new Error(`the key ${String(value)} stands twice in one mapping, ${at(offset)}`);
        }
        seen.add(value);
      }
    },
  });
  const value: unknown = document.toJS({ maxAliasCount: 100 });
  try {
    JSON.stringify(value);
  } catch {
    throw new Error("an alias leads back to what it stands in");
  }
  return value;
}
