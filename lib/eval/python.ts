import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { EvaluationError } from "./errors.js";
import { findProgram } from "./sandbox.js";

/** The Python that programs and their tests run on. */
export interface Python {
  version: string;
  /** Starts an interpreter that reads its program from descriptor 3. */
  command: readonly string[];
  /** What is written there first: the judge's program and the runner's, compiled. */
  code: { judge: Buffer; runner: Buffer };
  /** Folders outside the system's that it is installed in. */
  readable: readonly string[];
}

const asset = (name: string) =>
  readFileSync(fileURLToPath(new URL(`../../assets/eval/${name}.py`, import.meta.url)), "utf8");
const sources = (...names: string[]) => names.map(asset).join("\n");

/** A system's own Python first: others are often in a home folder, which programs do not see, and slower to start. */
const CANDIDATES = ["/usr/bin/python3", "/usr/local/bin/python3", "python3"];

/** Run once: compiles what stands on standard input, and says where this Python is. */
const DESCRIBE = `
import base64, json, marshal, site, sys
programs = {name: compile(text, f"<{name}>", "exec") for name, text in json.load(sys.stdin).items()}
code = {name: base64.b64encode(marshal.dumps(program)).decode() for name, program in programs.items()}
packages = [path for path in sys.path if path not in ("", *site.PREFIXES)]
prefixes = sorted({sys.prefix, sys.base_prefix})
print(json.dumps({"version": sys.version.split()[0], "code": code, "path": packages, "prefixes": prefixes, "executable": sys.executable}))
`;

/** Without site, which takes longer than the rest of the start; its paths are set by hand. */
const bootstrap = (path: readonly string[]) => `
import sys
sys.path[:] = ${JSON.stringify(path)}
def start():
    import marshal
    channel = open(3, "rb", buffering=0, closefd=False)
    def read(count):
        parts = []
        while count:
            parts.append(channel.read(count))
            count -= len(parts[-1])
        return b"".join(parts)
    return marshal.loads(read(int.from_bytes(read(4), "big")))
exec(start(), {"__name__": "__main__"})
`;

/**
 * Finds Python and compiles the harness' programs for it.
 *
 * @param given its path; default: the system's, or the first on the PATH
 * @throws EvaluationError EVAL_SANDBOX if there is none, or an older one than 3.8
 */
export function findPython(given?: string): Python {
  const path = (given === undefined ? CANDIDATES : [given]).map((name) => findProgram(name)).find(Boolean);
  if (path === undefined)
    throw new EvaluationError("EVAL_SANDBOX", `there is no ${given ?? "python3"} to run programs with`);
  const input = JSON.stringify({
    judge: sources("codec", "evalplus", "judge"),
    runner: sources("codec", "sanitize", "runner"),
  });
  // The shell scripts that some version managers put on the PATH give way to the interpreter itself.
  const asked = spawnSync(given ?? path, ["-I", "-B", "-c", DESCRIBE], { input, encoding: "utf8", timeout: 60_000 });
  if (asked.status !== 0) {
    const why = asked.stderr?.trim().split("\n").at(-1) || String(asked.error ?? asked.signal);
    throw new EvaluationError("EVAL_SANDBOX", `${path} cannot run the harness: ${why}`);
  }
  const told = JSON.parse(asked.stdout);
  const framed = (name: "judge" | "runner") => {
    const bytes = Buffer.from(told.code[name], "base64");
    const length = Buffer.alloc(4);
    length.writeUInt32BE(bytes.length);
    return Buffer.concat([length, bytes]);
  };
  return {
    version: told.version,
    command: [told.executable, "-I", "-S", "-B", "-c", bootstrap(told.path)],
    code: { judge: framed("judge"), runner: framed("runner") },
    readable: told.prefixes.filter((folder: string) => !/^\/usr(\/local)?$/.test(folder)),
  };
}
