import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Engine } from "../../lib/engine/index.js";
import { Watchdog } from "../../lib/engine/watchdog.js";
import { sharpCoder, TOKENIZER } from "./support.js";

/** A watchdog with a clock of its own: half a second is a look. */
function watch(limits: { hangTimeout: number; passTimeout: number }) {
  let now = 0;
  const told: string[] = [];
  const dog = new Watchdog(
    limits,
    (reason) => told.push(reason),
    () => now,
  );
  const wait = (seconds: number, beat?: () => number) => {
    for (let i = 0; i < 2 * seconds; i++) {
      now += 500;
      const turns = beat?.();
      if (turns !== undefined) dog.beat(turns);
      dog.look();
    }
  };
  const jump = (seconds: number) => {
    now += 1000 * seconds;
    dog.look();
  };
  return { dog, told, wait, jump };
}

describe("the watchdog", () => {
  it("detects silence, and finds nothing wrong in heartbeats", () => {
    const { dog, told, wait } = watch({ hangTimeout: 10, passTimeout: 60 });
    let turns = 0;
    wait(30); // it starts
    dog.beat(0);
    dog.ready();
    wait(100, () => turns++);
    expect([told, dog.silence]).toEqual([[], 0]);
    wait(5);
    expect(dog.silence).toBeGreaterThan(3);
    wait(4, () => turns++);
    expect([told, dog.silence]).toEqual([[], 0]);
    wait(11);
    expect(told).toEqual([expect.stringMatching(/no sign of life for 1\d s/)]);
    dog.stop();
  });

  it("does not wait longer for a process that hangs before its first heartbeat, once the model is loaded", () => {
    const { dog, told, wait } = watch({ hangTimeout: 10, passTimeout: 60 });
    wait(30);
    dog.ready();
    wait(9);
    expect(told).toEqual([]);
    expect(dog.silence).toBeGreaterThan(3);
    wait(2);
    expect(told).toEqual([expect.stringMatching(/no sign of life for 1\d s/)]);
    dog.stop();
  });

  it("lets a pass be long, up to its limit, and loading longer", () => {
    const { dog, told, wait } = watch({ hangTimeout: 10, passTimeout: 60 });
    wait(1000, () => 7); // the model is loaded
    dog.ready();
    wait(59, () => 7);
    expect(told).toEqual([]);
    wait(3, () => 7);
    expect(told).toEqual([expect.stringMatching(/a pass of the model for 6\d s/)]);
    dog.stop();
  });

  it("does not blame the core for its own sleep", () => {
    const { dog, told, wait, jump } = watch({ hangTimeout: 10, passTimeout: 60 });
    dog.beat(1);
    dog.ready();
    jump(3600);
    wait(5);
    expect(told).toEqual([]);
    wait(8);
    expect(told).toHaveLength(1);
    dog.stop();
  });

  it("says nothing where it is turned off, or stopped", () => {
    const { dog, told, wait } = watch({ hangTimeout: 0, passTimeout: 0 });
    dog.beat(1);
    dog.ready();
    wait(10_000);
    const other = watch({ hangTimeout: 10, passTimeout: 60 });
    other.dog.beat(1);
    other.dog.stop();
    other.wait(100);
    expect([...told, ...other.told]).toEqual([]);
    dog.stop();
  });
});

describe("an engine whose process hangs", () => {
  let folder: string;
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "diffcoder-hang-"));
    const saved = sharpCoder({ vocabSize: 4096, tokenizer: TOKENIZER });
    await saved.savePretrained(folder);
    saved.dispose();
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it("says so, tells its requests, and is started again", async () => {
    await using engine = await Engine.create({ model: folder, worker: "process", hangTimeout: 15 });
    await engine.complete("x", { maxTokens: 2, stopTokenIds: [] });
    expect(engine.stats().trouble).toBeUndefined();
    await sleep(2000); // its first beat comes; a process without any gets a minute
    const pid = engine.workerPid as number;
    process.kill(pid, "SIGSTOP");
    const began = performance.now();
    const lost = engine.complete("x", { maxTokens: 200, stopTokenIds: [] });
    const scored = engine.score("def f(x):");
    const troubles = new Set<string>();
    const timer = setInterval(() => troubles.add((engine.stats().trouble ?? "").replace(/\d+/g, "N")), 100);
    for (const each of [lost, scored]) {
      await expect(each).rejects.toMatchObject({
        code: "ENGINE_WORKER",
        message: expect.stringMatching(/no sign of life for \d+ s, and was ended/),
      });
    }
    const told = (performance.now() - began) / 1000;
    const choice = await engine.complete("x", { maxTokens: 5, stopTokenIds: [] });
    const recovered = (performance.now() - began) / 1000;
    clearInterval(timer);
    expect(choice.ids).toHaveLength(5);
    expect(told).toBeGreaterThan(4);
    expect(engine.workerPid).not.toBe(pid);
    expect(engine.stats()).toMatchObject({ state: "ready", counters: { workerRestarts: 1 } });
    expect([...troubles]).toEqual(
      expect.arrayContaining([expect.stringMatching(/worker died: it gave no sign of life.*; it is started again/)]),
    );
    while (engine.stats().trouble !== undefined) await sleep(50);
    if (process.env.DIFFCODER_FIGURES) console.log(JSON.stringify({ told, recovered }));
  });
});
