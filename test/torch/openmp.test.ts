import { spawnSync } from "node:child_process";
import { describe, expect, it } from "vitest";

const url = (path: string) => JSON.stringify(new URL(path, import.meta.url).href);

/** Runs a script; returns what libgomp says of its settings as it is loaded. */
function settingsOf(script: string, more: NodeJS.ProcessEnv = {}): Record<string, string> {
  const { GOMP_SPINCOUNT: _, OMP_WAIT_POLICY: __, ...env } = process.env;
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    ["--import", import.meta.resolve("tsx"), "--input-type=module", "-e", script],
    { env: { ...env, OMP_DISPLAY_ENV: "VERBOSE", ...more }, encoding: "utf8" },
  );
  expect(stdout).toMatch(/^3$/m);
  expect(status).toBe(0);
  return Object.fromEntries([...stderr.matchAll(/(\w+) = '(.*)'/g)].map(([, name, value]) => [name, value]));
}

const compute = `
  import * as torch from ${url("../../lib/torch/index.ts")};
  console.log(String(torch.ones([3]).sum().item()));`;
const thread = `
  import { startThread } from ${url("../../lib/worker/start-thread.ts")};
  startThread("computes", ${url("./children/main.ts")});`;

describe.runIf(process.platform === "linux")("OpenMP", () => {
  it.each([
    ["the main thread", compute],
    ["a thread, where the main one never loads libtorch", thread],
  ])("spins briefly, also beside another thread's operators: loaded by %s", (_, script) => {
    expect(settingsOf(script)).toMatchObject({ GOMP_SPINCOUNT: "1000", OMP_WAIT_POLICY: "ACTIVE" });
  });

  it.each([
    [{ GOMP_SPINCOUNT: "77" }, { GOMP_SPINCOUNT: "77", OMP_WAIT_POLICY: "PASSIVE" }],
    [{ OMP_WAIT_POLICY: "passive" }, { GOMP_SPINCOUNT: "0", OMP_WAIT_POLICY: "PASSIVE" }],
  ])("is left alone by whom the user has told it: %j", (env, expected) => {
    expect(settingsOf(compute, env)).toMatchObject(expected);
  });
});
