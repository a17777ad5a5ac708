import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, describe, expect, it } from "vitest";
import { WatchedFiles } from "../../lib/server/operations/watched-file.js";
import { until } from "./support.js";

const folder = mkdtempSync(join(tmpdir(), "diffcoder-watched-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("a watched file", () => {
  it("that cannot be read is reported once for each time it goes", async () => {
    const [path, away] = [join(folder, "keys"), join(folder, "away")];
    writeFileSync(path, "one");
    const used: string[] = [];
    const reports: (Error | undefined)[] = [];
    const files = new WatchedFiles(
      [path],
      ([content]) => void used.push(content.toString()),
      (problem) => void reports.push(problem),
      5,
    );
    try {
      renameSync(path, away);
      await until(() => reports.length > 0, "the report");
      await sleep(60);
      expect(reports.map((problem) => problem?.message)).toEqual([expect.stringContaining("cannot be read")]);
      renameSync(away, path);
      await sleep(60);
      renameSync(path, away);
      await until(() => reports.length > 1, "the next report");
      writeFileSync(path, "two");
      await until(() => used.includes("two"), "the new contents");
      await sleep(30);
      expect(reports.slice(1).map((problem) => problem?.message)).toEqual([expect.any(String), undefined]);
      expect(used).toEqual(["one", "two"]);
    } finally {
      files.close();
    }
  });
});
