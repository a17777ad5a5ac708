import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type CommandProgram, runCommands } from "../../lib/eval/command-session.js";
import { PythonSession, type Verdict } from "../../lib/eval/python-session.js";
import { Sandbox } from "../../lib/eval/sandbox.js";
import { checkTest, judges, named, noSandbox, program } from "./support.js";

const MIB = 2 ** 20;

/** What is left of the tests' own processes, by a word in their command line. */
function processesWith(word: string): string[] {
  return readdirSync("/proc").filter((pid) => {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) return false;
    try {
      return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(word);
    } catch {
      return false;
    }
  });
}

describe.skipIf(noSandbox)(named("a program that a model wrote", noSandbox), () => {
  let session: PythonSession;
  beforeAll(() => {
    const { sandbox, python } = judges();
    session = new PythonSession(sandbox, python);
  });
  afterAll(() => session.close());

  /** Runs code whose last value is sent to the judge, and is compared with what is expected. */
  const run = (source: string, test: string, options: { seconds?: number; memoryBytes?: number } = {}) =>
    session.run(program(source, checkTest(test)), { seconds: 3, ...options });
  const passes = async (source: string, test: string) =>
    expect(await run(source, test)).toMatchObject({ status: "passed" });

  it("reaches no network, not even this machine's", async () => {
    const server = createServer((socket) => socket.end());
    await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
    const { port } = server.address() as { port: number };
    const source = `
import socket
def f(port):
    names = [name for _, name in socket.if_nameindex()]
    try:
        socket.create_connection(("127.0.0.1", port), 2)
        return "connected"
    except OSError as error:
        return names, type(error).__name__
`;
    await passes(source, `assert candidate(${port}) == (["lo"], "ConnectionRefusedError")`);
    server.close();
  });

  it("sees a read-only system without home folders, and an empty /tmp that is gone afterwards", async () => {
    const secret = mkdtempSync(join(tmpdir(), "diffcoder-secret-"));
    writeFileSync(join(secret, "key"), "42");
    const source = `
import os
def f(path):
    written = []
    for each in ["/x", "/usr/x", "/etc/x", "/usr/bin/x", path + "/x"]:
        try:
            open(each, "w")
            written.append(each)
        except OSError:
            pass
    found = os.listdir("/tmp")
    open("/tmp/left", "w").write("here")
    return written, found, [os.path.exists(each) for each in (path, "/root", "/home", ${JSON.stringify(process.cwd())})]
`;
    const expected = `assert candidate(${JSON.stringify(secret)}) == ([], [], [False, False, False, False])`;
    await passes(source, expected);
    await passes(source, expected); // a second program does not find what the first left
    expect(existsSync("/tmp/left")).toBe(false);
    rmSync(secret, { recursive: true });
  });

  it("has nothing of the harness' environment, and no way to its processes", async () => {
    const source = `
import os, signal
def f(pid):
    try:
        os.kill(pid, signal.SIGKILL)
        reached = True
    except OSError:
        reached = False
    return sorted(os.environ), reached, len([each for each in os.listdir("/proc") if each.isdigit()]) < 6
`;
    await passes(source, `assert candidate(${process.pid}) == (["HOME", "LANG", "PATH", "PWD"], False, True)`);
  });

  it("does not bring the machine down by a fork bomb, and leaves no process", async () => {
    const bomb = `
import os, sys
def f(x):
    sys.argv.append("forkbombmark")
    for _ in range(10):
        try:
            os.fork()
        except OSError:
            pass
    while True:
        pass
`;
    const verdict = await run(bomb, "candidate(1)", { seconds: 1 });
    expect(verdict.status).toBe("timeout");
    const count = `
import os
def f(x):
    children = 0
    try:
        while children < 200:
            if os.fork() == 0:
                import time
                time.sleep(5)
                os._exit(0)
            children += 1
    except OSError:
        pass
    return children
`;
    await passes(count, "assert candidate(1) < 40");
    await new Promise((done) => setTimeout(done, 300));
    expect(processesWith("forkbombmark")).toEqual([]);
  });

  it("gets no more memory than allowed, and may fail itself", async () => {
    const source = `
def f(x):
    try:
        return len(bytearray(x * ${MIB}))
    except MemoryError:
        return "refused"
`;
    const test = `assert candidate(100) == ${100 * MIB}\nassert candidate(600) == "refused"`;
    expect(await run(source, test, { memoryBytes: 512 * MIB })).toMatchObject({ status: "passed" });
  });

  it("can print, write files and give back without end, and is stopped", async () => {
    const printing = "import sys\ndef f(x):\n    while True:\n        sys.stdout.write('x' * 100000)\n";
    expect(await run(printing, "candidate(1)", { seconds: 1 })).toMatchObject({ status: "timeout" });
    const filling = `
def f(x):
    with open("/tmp/big", "wb") as file:
        try:
            while True:
                file.write(b"x" * ${MIB})
        except OSError as error:
            return "full"
`;
    await passes(filling, 'assert candidate(1) == "full"');
    const flood = "import os\nwhile True:\n    os.write(3, b'x' * 1000000)\n";
    expect(await run(flood, "candidate(1)", { seconds: 2 })).not.toMatchObject({ status: "passed" });
  });

  it("sleeps, waits for input and ignores signals only until its time is over", async () => {
    const waiting = "def f(x):\n    input()\n";
    expect(await run(waiting, "candidate(1)")).toMatchObject({
      status: "failed",
      detail: expect.stringContaining("EOFError"),
    });
    const stubborn = `
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
def f(x):
    while True:
        pass
`;
    const verdict = await run(stubborn, "candidate(1)", { seconds: 1 });
    expect(verdict.status).not.toBe("passed");
  });

  it("is judged by itself after all of that", async () => {
    await passes("def f(x):\n    return x + 1\n", "assert candidate(1) == 2");
    expect(await run("def f(x):\n    return x\n", "assert candidate(1) == 2")).toMatchObject({ status: "failed" });
  });
});

describe.skipIf(noSandbox)(named("a program with commands", noSandbox), () => {
  const run = (files: Record<string, string>, argv: string[], seconds = 5): Promise<Verdict> => {
    const command: CommandProgram = { kind: "commands", files, commands: [{ argv, seconds }], tools: ["sh"] };
    return runCommands(Sandbox.create(), command);
  };

  it("passes if every command exits with 0, and keeps what it printed otherwise", async () => {
    expect(await run({ "main.sh": "test -f main.sh" }, ["sh", "main.sh"])).toEqual({ status: "passed" });
    expect(await run({ "main.sh": "echo no >&2; exit 3" }, ["sh", "main.sh"])).toEqual({
      status: "failed",
      detail: "code 3: no",
    });
  });

  it("is stopped at its limits of time and output", async () => {
    expect(await run({ "main.sh": "while :; do :; done" }, ["sh", "main.sh"], 1)).toMatchObject({ status: "timeout" });
    expect(await run({ "main.sh": "while :; do echo xxxxxxxxxxxxxxxxxxx; done" }, ["sh", "main.sh"], 1)).toMatchObject({
      status: "timeout",
    });
  });

  it("is not run, and has not failed, where a tool is missing", async () => {
    const missing: CommandProgram = { kind: "commands", files: {}, commands: [], tools: ["no-such-compiler"] };
    expect(await runCommands(Sandbox.create(), missing)).toEqual({
      status: "not-run",
      detail: "not installed: no-such-compiler",
    });
  });
});

describe("without bubblewrap", () => {
  it("programs are refused unless told otherwise", () => {
    const path = process.env.PATH;
    process.env.PATH = "/nowhere";
    try {
      expect(() => Sandbox.create()).toThrow(/bwrap is not on the PATH.*--allow-unsandboxed/);
      expect(Sandbox.create({ allowUnsandboxed: true }).isolated).toBe(false);
    } finally {
      process.env.PATH = path;
    }
  });

  it("and if they may run, they still have limits, and end", async () => {
    const path = process.env.PATH;
    process.env.PATH = "/nowhere";
    const sandbox = Sandbox.create({ allowUnsandboxed: true });
    process.env.PATH = path;
    const { python } = await import("../../lib/eval/python.js").then(({ findPython }) => ({ python: findPython() }));
    using session = new PythonSession(sandbox, python);
    const right = program("def f(x):\n    return x + 1\n", checkTest("assert candidate(1) == 2"));
    expect(await session.run(right, { seconds: 3 })).toMatchObject({ status: "passed" });
    const endless = program("def f(x):\n    while True: pass\n", checkTest("candidate(1)"));
    expect(await session.run(endless, { seconds: 1 })).toMatchObject({ status: "timeout" });
  });
});
