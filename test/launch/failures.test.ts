import { mkdirSync, readFileSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { root } from "../cli/support.js";
import { Launcher, launch, programFolder } from "./support.js";

const folder = programFolder();
const node = ["--", process.execPath];
/** Runs in each process: `rank` is its number, and `await together()` waits until all have come so far. */
const program = (name: string, body: string) =>
  folder.file(
    `${name}.mjs`,
    `import { existsSync, writeFileSync } from "node:fs";
     const { RANK, WORLD_SIZE, TORCHELASTIC_RESTART_COUNT } = process.env;
     const rank = Number(RANK);
     const here = (number) => ${JSON.stringify(join(folder.path, name))} + "-" + TORCHELASTIC_RESTART_COUNT + "-" + number;
     async function together() {
       writeFileSync(here(rank), "");
       for (let other = 0; other < Number(WORLD_SIZE); other++) {
         while (!existsSync(here(other))) await new Promise((resolve) => setTimeout(resolve, 10));
       }
     }
     ${body}`,
  );
const forever = "setInterval(() => {}, 1000);";

describe("when all processes do well", () => {
  it("so does the launcher, though they end at different times", async () => {
    const file = program("well", "await together(); setTimeout(() => console.log('done'), rank * 400);");
    const { code, lines, stderr } = await launch(["--nproc", "3", ...node, file]);
    expect(lines).toEqual(["[0] done", "[1] done", "[2] done"]);
    expect(stderr).toBe("");
    expect(code).toBe(0);
  });
});

describe("when one fails", () => {
  it("the others are ended, it is named, and its exit code is the launcher's", async () => {
    const file = program(
      "fails",
      `await together();
       if (rank === 2) { console.error('the reason'); console.error('in two lines'); process.exit(43); }
       ${forever}`,
    );
    const { code, stderr } = await launch(["--nproc", "4", ...node, file]);
    expect(code).toBe(43);
    expect(stderr).toMatch(/^error: rank 2 failed first: exit code 43, after \d\.\d s$/m);
    expect(stderr).toMatch(/^The end of its standard error:\n {2}the reason\n {2}in two lines$/m);
    expect(stderr).toMatch(/^The others: \d \(SIGTERM\), \d \(SIGTERM\), \d \(SIGTERM\)$/m);
  });

  it("by a signal, the exit code is 128 and the signal's number", async () => {
    const file = program("killed", `if (rank === 0) process.kill(process.pid, 'SIGKILL'); ${forever}`);
    const { code, stderr } = await launch(["--nproc", "2", ...node, file]);
    expect(code).toBe(137);
    expect(stderr).toMatch(/rank 0 failed first: SIGKILL/);
    const crash = await launch(["--", process.execPath, "-e", "process.abort()"]);
    expect(crash.code).toBe(134);
    expect(crash.stderr).toMatch(/rank 0 failed first: SIGABRT/);
  });

  it("those that do not listen are killed after the grace", async () => {
    const file = program(
      "deaf",
      `process.on('SIGTERM', () => console.log('no'));
       await together();
       if (rank === 1) process.exit(5);
       ${forever}`,
    );
    const begun = Date.now();
    const { code, stdout, stderr } = await launch(["--nproc", "3", "--grace", "0.5", ...node, file]);
    expect(code).toBe(5);
    expect(stdout.match(/\] no$/gm)).toHaveLength(2);
    expect(stderr).toMatch(/The others: . \(SIGKILL after the grace\), . \(SIGKILL after the grace\)/);
    expect(Date.now() - begun).toBeLessThan(8000);
  });

  it("what it started is ended, too", async () => {
    const child = `import('node:child_process').then(({ spawn }) =>
      spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { stdio: 'inherit' }).on('spawn', () => `;
    const fails = program("parent", `${child} rank === 1 && process.exit(9))); ${forever}`);
    expect((await launch(["--nproc", "2", ...node, fails])).code).toBe(9);
    const leaves = program("leaves", `${child} process.exit(0)));`);
    expect((await launch(["--nproc", "2", ...node, leaves])).code).toBe(0);
  });

  it("what cannot be started is said, and none runs", async () => {
    const missing = await launch(["--nproc", "2", "--", "no-such-program", "x"]);
    expect(missing.code).toBe(127);
    expect(missing.stderr).toMatch(/rank 0 failed first: it could not be started \(spawn no-such-program ENOENT\)/);
    const forbidden = await launch(["--", folder.path]);
    expect(forbidden.code).toBe(126);
  });

  it("a long last word is shown to its end, and no more of it than fits", async () => {
    const file = program("wordy", "for (let i = 0; i < 100; i++) console.error('line', i); process.exitCode = 1;");
    const { stderr } = await launch([...node, file]);
    const shown = stderr.split("\n").filter((line) => line.startsWith("  line"));
    expect(shown).toHaveLength(20);
    expect(shown.at(-1)).toBe("  line 99");
  });
});

describe("restarts", () => {
  const starts = `console.log('start', process.env.TORCHELASTIC_RESTART_COUNT, process.env.TORCHELASTIC_MAX_RESTARTS, process.env.MASTER_PORT, process.env.TORCHELASTIC_RUN_ID);`;

  it("begin anew with all processes, on another port, until one goes well", async () => {
    const file = program(
      "second-try",
      `${starts} await together();
       if (TORCHELASTIC_RESTART_COUNT === '0') { if (rank === 1) process.exit(3); ${forever} }`,
    );
    const { code, stdout, stderr } = await launch(["--nproc", "2", "--max-restarts", "2", ...node, file]);
    expect(code).toBe(0);
    const seen = [...stdout.matchAll(/^\[(\d)\] start (\d) 2 (\d+) ([\w-]+)$/gm)];
    expect(seen.map(([, rank, count]) => `${count}/${rank}`).sort()).toEqual(["0/0", "0/1", "1/0", "1/1"]);
    const ports = (count: string) => new Set(seen.filter((match) => match[2] === count).map(([, , , port]) => port));
    expect([ports("0").size, ports("1").size]).toEqual([1, 1]);
    expect([...ports("0")]).not.toEqual([...ports("1")]);
    expect(new Set(seen.map((match) => match[4])).size).toBe(1);
    expect(stderr).toMatch(/rank 1 failed first: exit code 3/);
    expect(stderr).toMatch(/restarting all processes \(1 of 2\)/);
  });

  it("are as many as allowed", async () => {
    const file = program("never", `${starts} process.exit(7);`);
    const args = ["--max-restarts", "2", "--master-port", "45555", ...node, file];
    const { code, lines, stderr } = await launch(args);
    expect(code).toBe(7);
    expect(lines.map((line) => line.replace(/ [\w-]+$/, ""))).toEqual([0, 1, 2].map((n) => `[0] start ${n} 2 45555`));
    expect(stderr.match(/failed first/g)).toHaveLength(3);
  });

  it("are made, too, when all ended well without what is expected", async () => {
    const done = join(folder.path, "done");
    const file = program(
      "unfinished",
      `${starts}
       if (process.env.TORCHELASTIC_RESTART_COUNT === '1') writeFileSync(${JSON.stringify(done)}, '');`,
    );
    const args = ["--expect", done, ...node, file];
    expect((await launch(args)).code).toBe(75);
    const { code, lines, stderr } = await launch(["--max-restarts", "4", ...args]);
    expect([code, lines.length]).toEqual([0, 2]);
    expect(stderr).toMatch(/done does not exist: the work is not complete\nrestarting all processes \(1 of 4\)/);
  });

  it("are not made once it was asked to stop", async () => {
    const file = program("stop", `process.on('SIGTERM', () => process.exit(8)); ${starts} ${forever}`);
    const launcher = new Launcher(["--max-restarts", "5", ...node, file]);
    await launcher.says(/start 0/);
    launcher.kill("SIGTERM");
    expect(await launcher.ended).toBe(8);
    expect(launcher.stdout.match(/start/g)).toHaveLength(1);
  });
});

describe("output", () => {
  it("of 10,000 lines comes whole and in order, on both streams and in the logs", async () => {
    const file = program(
      "many",
      "for (let i = 0; i < 10000; i++) (i % 2 ? console.error : console.log)(i, 'x'.repeat(60));",
    );
    const { code, stdout, stderr } = await launch([
      "--nproc",
      "2",
      "--log-dir",
      join(folder.path, "logs"),
      ...node,
      file,
    ]);
    expect(code).toBe(0);
    for (const rank of [0, 1]) {
      const numbers = (text: string) => [...text.matchAll(/^(\d+) x{60}$/gm)].map(([, number]) => Number(number));
      const of = (text: string) =>
        numbers(
          text
            .split("\n")
            .filter((line) => line.startsWith(`[${rank}] `))
            .map((line) => line.slice(4))
            .join("\n"),
        );
      expect(of(stdout)).toEqual(Array.from({ length: 5000 }, (_, i) => 2 * i));
      expect(of(stderr)).toEqual(Array.from({ length: 5000 }, (_, i) => 2 * i + 1));
      const logged = readFileSync(join(folder.path, "logs", `${rank}.log`), "utf8");
      expect(logged.trimEnd().split("\n")).toHaveLength(10_000);
    }
  });

  it("that is no text, or has no end, does not disturb others", async () => {
    const file = program(
      "garbage",
      `if (rank === 0) process.stdout.write(Buffer.from([0xff, 0xfe, 0, 0x1b, 0x5b, 0xc3, 10, 0xe2, 0x82]));
       else process.stdout.write('no end');`,
    );
    const { code, lines } = await launch(["--nproc", "2", ...node, file]);
    expect(code).toBe(0);
    expect(lines.filter((line) => line.startsWith("[0] "))).toHaveLength(2);
    expect(lines).toContain("[1] no end");
    expect(lines).toHaveLength(3);
  });

  it("has no prefix where none is wanted", async () => {
    const { stdout } = await launch(["--no-prefix", ...node, "-e", "console.log('plain')"]);
    expect(stdout).toBe("plain\n");
  });

  it("that a slow reader holds up arrives all the same", async () => {
    const file = program("fast", "process.stdout.write(('y'.repeat(99) + '\\n').repeat(20000));");
    const shell = [
      "/bin/sh",
      "-c",
      `"$@" | { sleep 1.5; wc -l; }`,
      "sh",
      process.execPath,
      join(root, "bin", "diffcoder.mjs"),
      "launch",
    ];
    const { stdout } = await launch(["--nproc", "2", ...node, file], { command: shell });
    expect(Number(stdout)).toBe(40_000);
  });

  it("that cannot be logged is printed all the same", async () => {
    const logs = join(folder.path, "full");
    mkdirSync(logs);
    symlinkSync("/dev/full", join(logs, "0.log"));
    const file = program("logged", "for (let i = 0; i < 3000; i++) console.log('z'.repeat(99));");
    const { code, lines, stderr } = await launch(["--nproc", "2", "--log-dir", logs, ...node, file]);
    expect(code).toBe(0);
    expect(lines).toHaveLength(6000);
    expect(stderr.match(/warning: .*0\.log: ENOSPC/g)).toHaveLength(1);
    expect(readFileSync(join(logs, "1.log"), "utf8").length).toBe(300_000);
  });

  it("is not begun where there can be no logs", async () => {
    const below = join(folder.file("a-file", ""), "logs");
    const { code, stderr } = await launch(["--log-dir", below, ...node, "-e", "1"]);
    expect([code, stderr]).toEqual([1, expect.stringMatching(/^error: --log-dir .*ENOTDIR/)]);
  });
});
