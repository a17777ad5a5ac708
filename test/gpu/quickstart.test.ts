import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { device, onGpu, record, sized } from "./support.js";

const root = fileURLToPath(new URL("../../", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "diffcoder-gpu-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function diffcoder(...args: string[]): Promise<{ code: number | null; out: string; errors: string }> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [join(root, "bin/diffcoder.mjs"), ...args], {
      cwd: root,
      env: { ...process.env, NO_COLOR: "1" },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let out = "";
    let errors = "";
    child.stdout.on("data", (chunk) => (out += chunk));
    child.stderr.on("data", (chunk) => (errors += chunk));
    child.on("close", (code) => resolve({ code, out, errors }));
  });
}

interface Line {
  type: string;
  name?: string;
  metrics?: Record<string, number>;
}

// `npm run test:gpu` compiles the commands first; a rehearsal may do without them.
describe.runIf(onGpu || existsSync(join(root, "dist/cli/main.js")))("the commands on the device", () => {
  const out = join(folder, "run");

  it("quickstart --device: the whole curriculum in half a minute", async () => {
    const data = ["lib", "native", "test"].map((name) => join(root, name));
    const run = await diffcoder(
      "quickstart",
      "--device",
      device,
      "--minutes",
      "0.5",
      "--output-dir",
      out,
      "--data",
      ...data,
    );
    expect(run.errors.replaceAll(/\r.*/g, "")).not.toMatch(/error/i);
    expect(run.code).toBe(0);
    expect(run.out).toMatch(/AR, pre-anneal checkpoint\s+\d+\.\d+/);
    expect(run.out).toMatch(/block diffusion, final \(upper bound\)\s+\d+\.\d+/);
    expect(run.out.match(/block diffusion: \d+ tokens in \d+ forwards/g)).toHaveLength(3);
    for (const file of ["report.html", "checkpoints/pre-anneal/model.safetensors", "checkpoints/final/config.json"]) {
      expect(existsSync(join(out, file)), file).toBe(true);
    }
    const lines = readFileSync(join(out, "metrics.jsonl"), "utf8").trim().split("\n");
    const events = lines.map((line) => JSON.parse(line) as Line);
    const steps = events.filter((event) => event.type === "step" && event.metrics !== undefined);
    const compress = steps.filter((step) => step.name === "compress").map((step) => step.metrics ?? {});
    expect(compress.length).toBeGreaterThan(sized(20, 1));
    expect(compress.at(-1)?.loss).toBeLessThan(compress[0].loss);
    if (onGpu) expect(compress[0].device_memory).toBeGreaterThan(0);
    const last = steps.at(-1)?.metrics ?? {};
    record("quickstart, half a minute: steps of AR, of all stages", `${compress.length}, ${steps.length}`);
    record(
      "quickstart: tokens/s at the end of AR, of the anneal",
      `${Math.round(compress.at(-1)?.tokens_per_second ?? 0)}, ${Math.round(last.tokens_per_second)}`,
    );
    for (const line of run.out.split("\n")) {
      const found = /^\s+(gzip -9|AR, pre-anneal checkpoint|block diffusion, final \(upper bound\))\s+(.*)$/.exec(line);
      if (found) record(`quickstart, bits per byte of held-out text: ${found[1]}`, found[2]);
    }
  });

  it("generate --device: the checkpoint of the quickstart completes a prompt", async () => {
    const model = join(out, "checkpoints/final");
    const options = ["--device", device, "--json", "--max-tokens", "32"];
    for (const more of [[], ["--autoregressive"], ["--dtype", "bfloat16"]]) {
      const run = await diffcoder("generate", model, "export function add(", ...options, ...more);
      expect(run.errors).toBe("");
      expect(run.code).toBe(0);
      const answer = JSON.parse(run.out) as { tokens: number; forwards: number };
      expect(answer.tokens).toBeLessThanOrEqual(32);
      expect(answer.forwards).toBeGreaterThan(0);
    }
  });

  it("a device that is not there is a clear error", async () => {
    const run = await diffcoder("generate", join(out, "checkpoints/final"), "x", "--device", "cuda:99");
    expect(run.code).not.toBe(0);
    expect(run.errors).toMatch(/cuda/i);
    expect(run.errors).not.toMatch(/\n\s+at /);
  });
});
