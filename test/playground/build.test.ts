import { execFileSync } from "node:child_process";
import { expect, test } from "vitest";

test("the committed page is what its sources give, and small", () => {
  const said = execFileSync(process.execPath, ["scripts/build-playground.mjs", "--check"], { encoding: "utf8" });
  expect(Number(/(\d+) bytes gzipped/.exec(said)?.[1])).toBeLessThan(60_000);
});
