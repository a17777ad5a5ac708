import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { Curriculum, type TrainEvent } from "../../lib/train/index.js";
import { RunLock } from "../../lib/train/run-lock.js";
import { readReport } from "../../lib/train/sinks/report.js";
import { collect, temporaryFolder, tinyModel, tinyStages } from "./support.js";

/** Runs the tiny curriculum; `strike` is called once, when global step 7 of 18 is done. */
async function disturbed(out: string, strike: () => void | Promise<void>): Promise<TrainEvent[]> {
  using model = tinyModel();
  const events: TrainEvent[] = [];
  for await (const event of new Curriculum(tinyStages()).run({ model, outputDir: out, seed: 3 })) {
    events.push(event);
    if (event.type === "step" && event.globalStep === 7) await strike();
  }
  return events;
}

const typesIn = (path: string) =>
  readFileSync(path, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as TrainEvent)
    .map(({ type, globalStep }) => `${type} ${globalStep}`);

describe("a run's folder that is", () => {
  it.each<[string, (out: string) => void]>([
    ["removed", (out) => rmSync(out, { recursive: true })],
    ["renamed", (out) => renameSync(out, `${out} renamed`)],
    ["emptied", (out) => rmAll(out)],
  ])("%s while training is written again as a whole", async (_, strike) => {
    const out = join(temporaryFolder(), "run");
    const events = await disturbed(out, () => strike(out));
    expect(events.at(-1)?.type).toBe("done");
    const warning = events.find((event) => event.type === "warning");
    expect(warning).toMatchObject({ code: "RUN_FOLDER", message: expect.stringContaining(out) });
    // All that was told is there, from the start on, in order.
    expect(typesIn(join(out, "metrics.jsonl"))).toEqual(events.map(({ type, globalStep }) => `${type} ${globalStep}`));
    expect(readReport(join(out, "report.html"))?.state).toBe("done");
    expect(readdirSync(join(out, "checkpoints"))).toContain("final");
    expect(existsSync(join(out, "lock"))).toBe(false);
    // The old one is free, too.
    if (existsSync(`${out} renamed`)) (await RunLock.acquire(`${out} renamed`)).release();
    using model = tinyModel();
    const resumed = await collect(tinyStages(), { model, outputDir: out, seed: 3, resume: true });
    expect(resumed[0]).toMatchObject({ type: "start", globalStep: 18 });
  });

  it("removed and taken by another run ends the first with an error, and the other's files stay", async () => {
    const out = join(temporaryFolder(), "run");
    let other: RunLock | undefined;
    const run = disturbed(out, async () => {
      rmSync(out, { recursive: true });
      mkdirSync(out);
      other = await RunLock.acquire(out);
    });
    await expect(run).rejects.toMatchObject({
      code: "TRAIN_RUN_LOCKED",
      message: expect.stringMatching(/was removed or renamed during training.*in use by process/),
    });
    expect(readdirSync(out)).not.toContain("report.html");
    expect(existsSync(join(out, "checkpoints", "final"))).toBe(false);
    expect(other?.isInPlace).toBe(true);
    other?.release();
  });
});

function rmAll(folder: string): void {
  for (const name of readdirSync(folder)) rmSync(join(folder, name), { recursive: true });
}
