import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";

const child = fileURLToPath(new URL("./instruction-set-child.ts", import.meta.url));

// The test run itself uses the machine's best set. These are the code paths of older machines.
it.each(["baseline", "avx2"])("every kernel agrees with its reference on %s", (set) => {
  const env = { ...process.env, DIFFCODER_CPU: set };
  const output = execFileSync(process.execPath, ["--import", "tsx", child], { env, encoding: "utf8" });
  expect(JSON.parse(output)).toEqual({ comparisons: 33, failures: [] });
});
