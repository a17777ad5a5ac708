import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import type { TrainEvent } from "../../lib/train/index.js";
import { addToReport, currentEvent, newReport, reportStateSchema } from "../../lib/train/sinks/report-data.js";
import { projectRoot } from "../../scripts/lib/paths.mjs";

// metrics-0.1.0.jsonl is the log of a run of `tinyStages` by commit d9ba3f4; steps are left out.
it("a log of 0.1.0 is read with today's names of the stages' options", () => {
  const log = readFileSync(join(projectRoot, "test/fixtures/train/metrics-0.1.0.jsonl"), "utf8");
  const report = newReport("tiny");
  for (const line of log.trim().split("\n")) addToReport(report, currentEvent(JSON.parse(line) as TrainEvent));
  expect(report.run).toMatchObject({ outputDir: "runs/tiny", seed: 3 });
  expect(report.run).not.toHaveProperty("out");
  for (const stage of (report.run?.stages ?? []) as object[])
    expect(stage).toMatchObject({ globalBatchSize: 4, seqLen: 16 });
  expect(report.run?.stages).toHaveLength(3);
  expect(report.state).toBe("done");
  expect(report.steps).toBe(13);
  expect(reportStateSchema.safeParse(JSON.parse(JSON.stringify(report))).success).toBe(true);
});
