import { spawn, spawnSync } from "node:child_process";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { Screen } from "./screen.js";
import { root, scratchFolder, smallCheckpoint, someCode } from "./support.js";

// What a person sees: the command on a pseudo-terminal, and its output on a screen.
const PTY = fileURLToPath(new URL("terminal.py", import.meta.url));
const hasPty = spawnSync("python3", ["-c", "import pty, termios"]).status === 0;
const ROWS = 20;
const COLUMNS = 80;

interface Seen {
  code: number | null;
  output: string;
  screen: Screen;
}

/** @param typed what is typed once the output matches */
function onTerminal(args: string[], typed?: { keys: string; after: RegExp }): Promise<Seen> {
  return new Promise((resolve, reject) => {
    const command = [process.execPath, join(root, "bin", "diffcoder.mjs"), ...args];
    const env = { ...process.env, OMP_NUM_THREADS: "1", TERM: "xterm-256color", NO_COLOR: undefined, CI: undefined };
    const child = spawn("python3", [PTY, String(ROWS), String(COLUMNS), ...command], { cwd: root, env });
    const seen: Seen = { code: null, output: "", screen: new Screen(COLUMNS, ROWS) };
    let waiting = typed;
    child.stdout.setEncoding("utf8");
    child.stdout.on("data", (text: string) => {
      seen.output += text;
      if (!waiting?.after.test(seen.output)) return;
      child.stdin.write(waiting.keys);
      waiting = undefined;
    });
    child.on("error", reject);
    child.on("close", (code) => {
      seen.screen.write(seen.output);
      resolve({ ...seen, code });
    });
  });
}

const folder = scratchFolder();
let model: string;
beforeAll(async () => {
  model = await smallCheckpoint(join(folder.path, "model"));
});

describe.skipIf(!hasPty)("on a terminal", () => {
  it("draws the canvas as it denoises, and leaves the text", async () => {
    const prompt =
      "def f(a):\n    # longer than a line of the terminal, so that the canvas has to count the rows of wrapped lines\n";
    const { code, output, screen } = await onTerminal(["generate", model, prompt, "-n", "12"]);
    expect(code, output).toBe(0);
    const frames = output.split("\x1b[J").slice(1);
    expect(frames.length).toBeGreaterThan(12);
    expect(frames.filter((frame) => frame.includes("▒")).length).toBeGreaterThan(6);
    expect(frames[0]).toContain("\x1b[2m"); // the prompt, dimmed
    const lines = screen.lines();
    expect(lines.filter((line) => line === "def f(a):")).toHaveLength(1); // every frame replaced the one before
    expect(lines.join("")).toContain("so that the canvas has to count the rows of wrapped lines");
    expect(lines.join("")).not.toContain("▒");
    expect(lines.at(-1)).toMatch(/^12 tokens, \d+ forwards .* ended by length$/);
    expect(screen.cursorVisible).toBe(true);
    expect(screen.unknown).toEqual([]);
  });

  it("stops generating on Ctrl-C with what there is", async () => {
    const stop = { keys: "\x03", after: /▒[\s\S]*▒/ };
    const { code, screen } = await onTerminal(["generate", model, "def f(", "-n", "400", "--pause", "10"], stop);
    expect(code).toBe(130);
    expect(screen.lines().at(-1)).toMatch(/ended by abort$/);
    expect(screen.cursorVisible).toBe(true);
  });

  it("asks for a prompt where none is piped in", async () => {
    const { code, output } = await onTerminal(["generate", model]);
    expect(code).toBe(1);
    expect(output).toContain("no prompt: give one as an argument, with --file PATH or through a pipe");
  });

  it("shows progress as a bar, and on Ctrl-C gives the screen back", async () => {
    const code = someCode(folder.path);
    const args = ["quickstart", "--steps", "5000,1,1", "--data", code, "--output-dir", join(folder.path, "run")];
    const { code: exit, output, screen } = await onTerminal(args, { keys: "\x03", after: /\d+\/5000/ });
    expect(exit, output).toBe(130);
    expect(output).toMatch(/compress.*━*─+.*\d+%.*\d+\/5000.*loss \d/);
    expect(screen.cursorVisible).toBe(true);
    expect(screen.unknown).toEqual([]);
    expect(screen.lines().at(-1)).toMatch(/npx diffcoder generate|def main/);
    expect(screen.lines().join("\n")).toContain("Stopping and saving.");
  });
});
