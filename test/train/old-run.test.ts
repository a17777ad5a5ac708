import { cpSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { Curriculum } from "../../lib/train/index.js";
import { projectRoot } from "../../scripts/lib/paths.mjs";
import { collect, stepsOf, temporaryFolder, tinyModel, tinyStages } from "./support.js";

// run-0.1.0 was stopped after 9 of 18 steps of `tinyStages`, with the options' names of 0.1.0 (commit d9ba3f4).
it("a run of 0.1.0 resumes, and ends as one that was never stopped", async () => {
  using whole = tinyModel();
  const steps = stepsOf(await collect(tinyStages(), { model: whole, seed: 3 }));
  const outputDir = temporaryFolder();
  cpSync(join(projectRoot, "test/fixtures/train/run-0.1.0"), outputDir, { recursive: true });
  using resumed = tinyModel({ seed: 99 });
  const events = [];
  for await (const event of new Curriculum(tinyStages()).run({
    model: resumed,
    outputDir,
    seed: 3,
    sinks: [],
    resume: true,
  })) {
    events.push(event);
  }
  expect(events[0]).toMatchObject({ type: "start", globalStep: 9 });
  const rest = stepsOf(events);
  expect(rest.map(({ globalStep }) => globalStep)).toEqual(Array.from({ length: 9 }, (_, i) => 10 + i));
  for (const [i, { metrics }] of rest.entries()) expect(metrics.loss).toBeCloseTo(steps[9 + i].metrics.loss, 3);
  await expect(
    collect(tinyStages({ blockSize: 8 }), { model: resumed, outputDir, seed: 3, resume: true }),
  ).rejects.toMatchObject({ code: "TRAIN_RESUME_MISMATCH" });
});
