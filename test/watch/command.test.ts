import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { appendFileSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, describe, expect, it } from "vitest";
import { DIFFCODER, eventsUpTo, lineOf, PLAIN, stepEvent, temporaryFolder, writeLog } from "./support.js";

const PTY = fileURLToPath(new URL("../cli/terminal.py", import.meta.url));
const hasPty = spawnSync("python3", ["-c", "import pty, termios"]).status === 0;
const ENTER = "\x1b[?1049h\x1b[?25l";
const LEAVE = "\x1b[?25h\x1b[?1049l";

/** A command that runs, with what it has written so far. */
class Running {
  output = "";
  readonly child: ChildProcess;
  readonly ended: Promise<number | null>;

  constructor(command: readonly string[], env: NodeJS.ProcessEnv = {}) {
    const [program, ...args] = command;
    this.child = spawn(program, args, { env: { ...process.env, TERM: "xterm-256color", CI: undefined, ...env } });
    running.push(this.child);
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream?.setEncoding("utf8").on("data", (text: string) => {
        this.output += text;
      });
    }
    this.ended = new Promise((resolve) => this.child.on("close", resolve));
  }

  /** The last whole picture, without colours, line by line. */
  get screen(): string[] {
    const frames = this.output.split("\x1b[?2026h\x1b[H").slice(1);
    const whole = frames.filter((frame) => frame.includes("\x1b[?2026l")).at(-1) ?? "";
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control sequences are what is taken out
    const plain = whole.split("\x1b[J")[0].replace(/\x1b\[[0-9;?]*[A-Za-z]/g, "");
    return plain.split("\r\n").map((line) => line.trimEnd());
  }

  type(keys: string): void {
    this.child.stdin?.write(keys);
  }

  async until(holds: () => boolean): Promise<void> {
    const end = performance.now() + 15_000;
    while (!holds()) {
      if (performance.now() > end) throw new Error(`never seen:\n${this.screen.join("\n") || this.output}`);
      await new Promise((done) => setTimeout(done, 20));
    }
  }
}

const running: ChildProcess[] = [];
afterEach(() => {
  for (const child of running.splice(0)) child.kill("SIGKILL");
});

const plain = (...args: string[]) => new Running([...DIFFCODER, "watch", ...args], PLAIN);
const onTerminal = (rows: number, columns: number, ...args: string[]) =>
  new Running(["python3", PTY, String(rows), String(columns), ...DIFFCODER, "watch", "--interval", "0.1", ...args]);

describe("watch without a terminal", () => {
  it("prints a line when there is something new, until the run has ended", async () => {
    const out = join(temporaryFolder(), "run");
    const command = plain(out, "--interval", "0.1");
    await command.until(() => command.output.includes("waiting for its log\n"));
    const path = writeLog(out, eventsUpTo(41));
    await command.until(() => /cpt 1\/60 {2}loss 3\.\d+ {2}.*left {2}128 tokens\/s/.test(command.output));
    appendFileSync(path, lineOf({ type: "done", globalStep: 41, tokens: 2624, elapsed: 20 }));
    expect(await command.ended, command.output).toBe(0);
    expect(command.output).toMatch(/run {2}finished, 41 steps, 2\.62k tokens, 21s\n$/);
    expect(command.output).not.toContain("\x1b");
  });

  it("--once prints one picture and ends", async () => {
    const out = temporaryFolder();
    writeLog(out, eventsUpTo(60, { ranks: 4 }));
    const command = plain(out, "--once");
    expect(await command.ended, command.output).toBe(0);
    expect(command.output.match(/● training/g)).toHaveLength(1);
    expect(command.output).toMatch(/[⠁-⣿]{5}/);
    expect(command.output).toContain("slowest");
    expect(command.output).not.toContain("\x1b");
  });

  it("explains a log that cannot be read", async () => {
    const out = temporaryFolder();
    mkdirSync(join(out, "metrics.jsonl"));
    const command = plain(out);
    expect(await command.ended).toBe(1);
    expect(command.output).toMatch(/^error: cannot read .*metrics\.jsonl: it is a folder, expected a regular file\n$/);
  });
});

describe.skipIf(!hasPty)("watch on a terminal", () => {
  it("draws as the run goes on, obeys keys, and gives the screen back on q", async () => {
    const folder = temporaryFolder();
    const [one, two] = [join(folder, "one"), join(folder, "two")];
    const path = writeLog(one, eventsUpTo(50));
    const command = onTerminal(24, 80, one, two);
    await command.until(() => command.screen[0].includes("● training"));
    expect(command.screen).toHaveLength(24);
    expect(command.screen.join("\n")).toMatch(/10\/60/);
    expect(command.screen[0]).toContain("run 1 of 2");
    appendFileSync(path, lineOf(stepEvent(51)));
    await command.until(() => /11\/60/.test(command.screen.join("\n")));

    command.type("l");
    await command.until(() => /loss .*logarithmic/.test(command.screen.join("\n")));
    command.type("s");
    await command.until(() => /smoothed over 10 %/.test(command.screen.join("\n")));
    command.type("\x1b[C");
    await command.until(() => /^gradient norm/m.test(command.screen.join("\n")));
    command.type("\t");
    await command.until(() => /two {2}○ waiting/.test(command.screen[0]));
    writeLog(two, eventsUpTo(3)); // begins only now
    await command.until(() => /3\/40/.test(command.screen.join("\n")));

    command.type("q");
    expect(await command.ended, command.output).toBe(0);
    expect(command.output.indexOf(ENTER)).toBe(0);
    expect(command.output.endsWith(LEAVE)).toBe(true);
    expect(
      command.output
        .split("\x1b[?2026h")
        .slice(1)
        .every((frame) => frame.split("\x1b[H").length === 2),
    ).toBe(true);
  });

  it("gives the screen back on Ctrl-C, and before an error", async () => {
    const out = temporaryFolder();
    writeLog(out, eventsUpTo(5));
    const stopped = onTerminal(20, 60, out);
    await stopped.until(() => stopped.screen.length === 20);
    stopped.type("\x03");
    expect(await stopped.ended).toBe(130);
    expect(stopped.output.endsWith(LEAVE)).toBe(true);

    const broken = temporaryFolder();
    mkdirSync(join(broken, "metrics.jsonl"));
    const failed = onTerminal(20, 60, broken);
    expect(await failed.ended).toBe(1);
    expect(failed.output).toMatch(/error:/);
    expect(failed.output.indexOf(LEAVE)).toBeGreaterThan(0);
    expect(failed.output.indexOf(LEAVE)).toBeLessThan(failed.output.indexOf("error:"));
  });

  it("gives the screen back on a signal", async () => {
    const out = temporaryFolder();
    writeLog(out, eventsUpTo(5));
    const command = onTerminal(20, 60, out);
    await command.until(() => command.screen.length === 20);
    const [pid] = spawnSync("pgrep", ["-P", String(command.child.pid)])
      .stdout.toString()
      .split("\n");
    process.kill(Number(pid), "SIGTERM");
    expect(await command.ended).toBe(143);
    expect(command.output.endsWith(LEAVE)).toBe(true);
  });
});
