import { isMap, isScalar, LineCounter, parseDocument, visit } from "yaml";

/** Maximum bytes of a YAML file. The parser takes quadratic time for some inputs. */
export const MAX_YAML_BYTES = 256 * 1024;

/**
 * Parses an untrusted YAML document. The number of aliases is limited, so that a few lines cannot expand to gigabytes;
 * cyclic aliases and repeated keys are rejected.
 *
 * @throws Error naming the line and column of the problem
 */
export function parseYaml(text: string): unknown {
  if (Buffer.byteLength(text) > MAX_YAML_BYTES) throw new Error(`it is longer than ${MAX_YAML_BYTES / 1024} KiB`);
  const lineCounter = new LineCounter();
  const at = (offset: number) => {
    const { line, col } = lineCounter.linePos(offset);
    return `at line ${line}, column ${col}`;
  };
  // The library's formatted messages and its check for repeated keys take quadratic time.
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
          throw new Error(`the key ${String(value)} is repeated in a mapping, ${at(offset)}`);
        }
        seen.add(value);
      }
    },
  });
  const value: unknown = document.toJS({ maxAliasCount: 100 });
  try {
    JSON.stringify(value);
  } catch {
    throw new Error("an alias is cyclic");
  }
  return value;
}
