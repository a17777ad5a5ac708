import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, it } from "vitest";
import { root } from "../cli/support.js";
import { Launcher, programFolder } from "./support.js";

const folder = programFolder();
const BIN = join(root, "bin", "diffcoder.mjs");
const hasPty = spawnSync("python3", ["-c", "import pty, termios"]).status === 0;
/** Saves at a signal, which takes a while, and ends well. */
const SAVES = `
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    process.on(name, () => { console.log('got', name); setTimeout(() => { console.log('saved'); process.exit(0); }, 400); });
  }
  console.log('up', process.pid);
  setInterval(() => {}, 1000);`;
/** Hears no signal but the last. */
const DEAF = `
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(name, () => console.log('got', name));
  console.log('up', process.pid);
  setInterval(() => {}, 1000);`;

/** Starts processes, and waits until all are up. */
async function start(body: string, nproc: number, ...options: string[]): Promise<Launcher> {
  const file = folder.file("program.mjs", body);
  const launcher = new Launcher(["--nproc", String(nproc), ...options, "--", process.execPath, file]);
  await launcher.says(/\] up/, nproc);
  return launcher;
}

describe("a signal to the launcher", () => {
  it.each(["SIGINT", "SIGTERM", "SIGHUP"] as const)(
    "%s reaches all processes once, and they may take their time",
    async (signal) => {
      const launcher = await start(SAVES, 2, "--grace", "0.1");
      launcher.kill(signal);
      expect(await launcher.ended).toBe(0);
      expect(launcher.stdout.match(new RegExp(`got ${signal}$`, "gm"))).toHaveLength(2);
      expect(launcher.stdout.match(/got/g)).toHaveLength(2);
      expect(launcher.stdout.match(/saved/g)).toHaveLength(2);
      expect(launcher.stderr).toContain(`${signal}: waiting for the processes to end`);
      await launcher.leavesNothing(0);
    },
  );

  it("and its copy that comes at once, as by npx, is one", async () => {
    const launcher = await start(SAVES, 2);
    launcher.kill("SIGINT");
    await sleep(20);
    launcher.kill("SIGINT");
    expect(await launcher.ended).toBe(0);
    expect(launcher.stdout.match(/got/g)).toHaveLength(2);
  });

  it("of a process that does not mind ends it, and the launcher with its code", async () => {
    const launcher = await start("console.log('up'); setInterval(() => {}, 1000);", 2);
    launcher.kill("SIGINT");
    expect(await launcher.ended).toBe(130);
    expect(launcher.stderr).toMatch(/rank \d ended with SIGINT at SIGINT$/m);
    await launcher.leavesNothing(0);
  });

  it("after which all ended well, but not all is done, gives an exit code of its own", async () => {
    const launcher = await start(SAVES, 1, "--max-restarts", "3", "--expect", join(folder.path, "final"));
    launcher.kill("SIGTERM");
    expect(await launcher.ended).toBe(75);
    expect(launcher.stderr).toMatch(/all processes succeeded, but .*final does not exist: the work is not complete/);
  });

  it("a second time kills", async () => {
    const launcher = await start(DEAF, 2);
    launcher.kill("SIGINT");
    await launcher.says(/got SIGINT/, 2);
    await sleep(400);
    launcher.kill("SIGINT");
    expect(await launcher.ended).toBe(130);
    expect(launcher.stderr).toMatch(/SIGINT again: killing all processes/);
    await launcher.leavesNothing(0);
  });

  it("when one process then fails, the others are not waited for longer than the grace", async () => {
    const body = `process.on('SIGTERM', () => { if (process.env.RANK === '1') process.exit(6); }); ${DEAF}`;
    const launcher = await start(body, 3, "--grace", "0.3");
    launcher.kill("SIGTERM");
    expect(await launcher.ended).toBe(6);
    expect(launcher.stdout.match(/got SIGTERM/g)).toHaveLength(2); // once each
    expect(launcher.stderr).toMatch(/rank 1 failed first: exit code 6/);
    await launcher.leavesNothing(0);
  });
});

describe("a launcher that is gone", () => {
  it("by SIGKILL leaves nothing behind", async () => {
    const launcher = await start(SAVES, 3);
    launcher.kill("SIGKILL");
    // Its processes have the pipes of its output no more: that they saved is seen from the time it took.
    expect(await launcher.ended).toBe("SIGKILL");
    await launcher.leavesNothing(5);
  });

  it("by SIGKILL leaves nothing behind that hears no SIGTERM", async () => {
    const launcher = await start(DEAF, 2, "--grace", "0.5");
    launcher.kill("SIGKILL");
    await launcher.ended;
    await sleep(200);
    expect(launcher.left().length).toBeGreaterThan(2); // asked first
    await launcher.leavesNothing(5);
  });

  it("by SIGKILL, after the guard had been killed before it, leaves nothing behind", async () => {
    const launcher = await start(DEAF, 2, "--grace", "0.2");
    const guard = () =>
      spawnSync("pgrep", ["-P", String(launcher.pid), "-f", "diffcoder-launch-guard"], {
        encoding: "utf8",
      }).stdout.trim();
    const first = guard();
    expect(first).toMatch(/^\d+$/);
    process.kill(Number(first), "SIGKILL");
    while (guard() === "" || guard() === first) await sleep(20);
    launcher.kill("SIGKILL");
    await launcher.ended;
    await launcher.leavesNothing(5);
  });

  it("is told by the death of npx's shell, which says nothing else", async () => {
    const file = folder.file("program.mjs", SAVES);
    const args = ["--nproc", "2", "--", process.execPath, file];
    const launch = [process.execPath, BIN, "launch"];
    // As npm does it: a shell of its own around the command.
    const shell = new Launcher(args, {
      command: ["/bin/sh", "-c", '"$@"; exit $?', "sh", ...launch],
      env: { npm_command: "exec" },
    });
    await shell.says(/\] up/, 2);
    shell.kill("SIGTERM");
    await shell.ended; // when the launcher, which has the same output, is gone
    expect(shell.stdout.match(/saved/g)).toHaveLength(2);
    await shell.leavesNothing(2);
  });

  it.skipIf(!hasPty)("is told by a terminal that closes, and lets the processes save", async () => {
    const saved = join(folder.path, "saved");
    const body = `import { appendFileSync } from 'node:fs';
      process.on('SIGHUP', () => setTimeout(() => { appendFileSync(${JSON.stringify(saved)}, 'x'); process.exit(0); }, 300));
      console.log('up');
      setInterval(() => console.log('more'), 20);`;
    const terminal = `import os, pty, sys
pid, terminal = pty.fork()
if pid == 0: os.execvp(sys.argv[1], sys.argv[1:])
seen = b""
while seen.count(b"] up") < 2: seen += os.read(terminal, 1000)
os.close(terminal)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))`;
    const command = ["python3", "-c", terminal, process.execPath, BIN, "launch"];
    const launcher = new Launcher(["--nproc", "2", "--", process.execPath, folder.file("tty.mjs", body)], { command });
    expect(await launcher.ended).toBe(0);
    expect(launcher.stdout).toBe("-1\n"); // by SIGHUP, as a terminal's programs end; not by an assertion of Node
    expect(readFileSync(saved, "utf8")).toBe("xx");
    await launcher.leavesNothing(0);
  });

  it("ends when nobody reads its output, and lets the processes save", async () => {
    const launcher = await start(`${SAVES} setInterval(() => console.log('more'), 50);`, 2);
    launcher.closeOutput();
    expect(await launcher.ended).toBe(0);
    expect(launcher.stderr).toContain("SIGTERM: waiting for the processes to end");
    await launcher.leavesNothing(0);
  });
});
