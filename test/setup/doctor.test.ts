import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { type DoctorCheck, type DoctorReport, doctorReport } from "../../lib/cli/doctor.js";
import { containerCpus, cpuFeatures } from "../../scripts/lib/machine.mjs";
import {
  cleanEnvironment,
  fakeLibtorch,
  pretendBuilt,
  put,
  runScript,
  scratchCheckout,
  scratchFolder,
} from "./scratch.js";

function report(root: string, env: NodeJS.ProcessEnv) {
  const run = runScript(root, "scripts/doctor.mjs", ["--json"], env);
  const parsed = JSON.parse(run.out) as DoctorReport;
  const check = (name: string): DoctorCheck | undefined => parsed.checks.find((one) => one.name === name);
  return { status: run.status, parsed, check };
}

describe("diffcoder doctor", () => {
  it("runs where nothing is built, lists every place it looked, and exits with 1", () => {
    const root = scratchCheckout();
    const { status, parsed, check } = report(root, cleanEnvironment({ PYTHON: "/nonexistent/python" }));
    expect(status).toBe(1);
    expect(parsed.canRun).toBe(false);
    expect(parsed.libtorchTried.map((line) => line.split(":")[0])).toEqual([
      "LIBTORCH",
      "active Python",
      "project cache",
    ]);
    expect(check("libtorch")).toMatchObject({ status: "missing", mend: expect.stringContaining("npm run setup") });
    expect(check("addon")).toMatchObject({ status: "missing", found: "not built", mend: "npm run setup" });
    expect(check("Python")).toMatchObject({ status: "missing", mend: expect.any(String) });
    expect(check("TypeScript")).toMatchObject({ status: "missing" });
    expect(check("Node")).toMatchObject({ status: "ok", mend: null });
    const text = runScript(root, "scripts/doctor.mjs", [], cleanEnvironment({ PYTHON: "/nonexistent/python" }));
    expect(text.out).toMatch(/✖ addon +not built\n +→ npm run setup\n/);
    expect(text.out).toMatch(/LIBTORCH: not set\n.*active Python: no python3[^\n]*\n.*project cache/);
    expect(text.out).toMatch(/diffcoder cannot run here: \d+ things are missing\.\n$/);
  });

  it("says what is wrong with a libtorch of a wrong version", () => {
    const LIBTORCH = fakeLibtorch(scratchFolder(), { version: "2.3.1" });
    const { status, check } = report(scratchCheckout(), cleanEnvironment({ LIBTORCH }));
    expect(status).toBe(1);
    expect(check("libtorch")?.found).toContain("version 2.3.1 is not 2.11 to 2.13");
    expect(check("libtorch")?.mend).toContain("unset it");
  });

  it("survives an addon that does not load, and reports why", () => {
    const root = scratchCheckout();
    const { status, check } = report(root, pretendBuilt(root));
    expect(status).toBe(1);
    expect(check("addon")).toMatchObject({ status: "missing", mend: "npm run setup -- --force" });
    expect(check("addon")?.found).toMatch(
      /does not load: .*(invalid ELF header|too short|not a mach-o|slice is not valid)/i,
    );
  });

  it("tells a CUDA build from a CPU build, and what CUDA lacks here", () => {
    const root = scratchCheckout();
    const LIBTORCH = fakeLibtorch(join(root, "site", "torch"), { version: "2.12.0+cu130", cuda: true });
    const header = "#define NCCL_MAJOR 2\n#define NCCL_MINOR 28\n#define NCCL_PATCH 9\n";
    put(join(root, "site", "nvidia", "nccl", "include", "nccl.h"), header);
    const { check } = report(root, cleanEnvironment({ LIBTORCH }));
    expect(check("libtorch")?.found).toContain("CUDA 13.0");
    expect(check("NCCL")).toMatchObject({ status: "ok", found: "2.28.9" });
    expect(check("CUDA devices")?.found).toEqual(expect.any(String));
  });

  it("is the same report through the library", async () => {
    const found = await doctorReport();
    expect(found.checks.map(({ name }) => name)).toEqual(
      expect.arrayContaining(["Node", "libtorch", "addon", "CPU", "memory"]),
    );
    expect(found.checks.find(({ name }) => name === "npm packages")?.status).toBe("ok");
    for (const { status, mend } of found.checks) {
      if (status === "missing") expect(mend).toEqual(expect.any(String));
      if (status === "ok") expect(mend).toBeNull();
    }
  });

  it("refuses unknown options", () => {
    const run = runScript(scratchCheckout(), "scripts/doctor.mjs", ["--yaml"]);
    expect([run.status, run.err]).toEqual([2, "unknown option --yaml\n"]);
  });

  it("reads the processor's features and the container's limits", () => {
    expect(cpuFeatures("processor\t: 0\nflags\t\t: fpu avx avx2 fma avx512f avx512_bf16\n")).toEqual([
      "avx2",
      "fma",
      "avx512f",
      "avx512_bf16",
    ]);
    expect(cpuFeatures("processor\t: 0\nFeatures\t: fp asimd bf16 sve\n")).toEqual(["asimd", "bf16", "sve"]);
    expect(cpuFeatures("no such line")).toBeNull();
    expect(containerCpus("150000 100000\n")).toBe(1.5);
    expect(containerCpus("max 100000\n")).toBeNull();
  });
});
