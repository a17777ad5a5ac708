import { existsSync, readdirSync, readFileSync, truncateSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { pipArguments, requirement } from "../../scripts/lib/fetch-libtorch.mjs";
import { completeMarker, findLibtorch, libraryFile } from "../../scripts/lib/libtorch.mjs";
import { fakeWheel, put, runScript, scratchCheckout, scratchFolder } from "./scratch.js";

// macOS has no "+cpu" wheels; there the fake wheel carries the plain version.
const version = requirement().replace("torch==", "");
const setup = ["--only", "libtorch"];

function cacheOf(root: string): string {
  return join(root, ".cache", "libtorch");
}

describe("fetching libtorch with pip", () => {
  it("keeps what C++ needs, and finds it the next time without fetching", () => {
    const root = scratchCheckout();
    const { env } = fakeWheel(scratchFolder(), { version });
    const first = runScript(root, "scripts/setup.mjs", setup, env);
    expect(first.all).toMatch(/\[1\/1\] fetch libtorch.*done in/);
    expect(first.status).toBe(0);
    const folder = join(cacheOf(root), version);
    expect(readdirSync(cacheOf(root))).toEqual([version]);
    expect(existsSync(join(folder, "torch", "include", "ATen", "ATen.h"))).toBe(true);
    expect(existsSync(join(folder, "torchgen", "packaged", "ATen", "native", "native_functions.yaml"))).toBe(true);
    expect(existsSync(join(folder, "torch", "nn"))).toBe(false);
    expect(existsSync(join(folder, "torch", "lib", libraryFile("torch_python")))).toBe(false);
    const marker = JSON.parse(readFileSync(join(folder, completeMarker), "utf8"));
    expect(Object.keys(marker.libraries)).toContain(libraryFile("torch_cpu"));

    const second = runScript(root, "scripts/setup.mjs", setup, env);
    expect(second.all.trim()).toBe("Everything is up to date.");
  });

  it("removes what a killed fetch left, and replaces a broken cache", () => {
    const root = scratchCheckout();
    put(join(cacheOf(root), ".fetch-12345", "wheels", "half.whl"), "half");
    put(join(cacheOf(root), version, "torch", "lib", libraryFile("torch_cpu")), "half");
    const { env } = fakeWheel(scratchFolder(), { version });
    const run = runScript(root, "scripts/setup.mjs", setup, env);
    expect(run.status).toBe(0);
    expect(run.all).toContain("a fetch that was not completed");
    expect(readdirSync(cacheOf(root))).toEqual([version]);
    expect(findLibtorch({ root, env }).libtorch?.source).toBe("cache");
  });

  it.each([
    ["a truncated wheel", (wheel: string) => truncateSync(wheel, 200), {}],
    ["a wheel without headers", () => undefined, { without: ["include/ATen/ATen.h"] }],
  ])("leaves no cache behind after %s", (_name, damage, options) => {
    const root = scratchCheckout();
    const { wheel, env } = fakeWheel(scratchFolder(), { version, ...options });
    damage(wheel);
    const run = runScript(root, "scripts/setup.mjs", setup, env);
    expect(run.status).toBe(1);
    expect(run.all).toContain("[FETCH_FAILED]");
    expect(readdirSync(cacheOf(root))).toEqual([]);
  });

  it("names the ways out when pip finds no wheel", () => {
    const root = scratchCheckout();
    const { env } = fakeWheel(scratchFolder(), { version: "2.12.0" });
    const run = runScript(root, "scripts/setup.mjs", setup, env);
    expect(run.status).toBe(1);
    expect(run.all).toContain("[FETCH_FAILED]");
    expect(run.all).toMatch(/pip said:/);
    expect(run.all).toContain(`pip download --no-deps -d wheels ${requirement()} --index-url`);
    expect(run.all).toContain("PIP_FIND_LINKS");
    expect(run.all).toContain("LIBTORCH");
  });

  it("asks for the CPU build, and for another Python's wheel where this one has none", () => {
    expect(requirement("linux")).toBe("torch==2.13.0+cpu");
    expect(requirement("darwin")).toBe("torch==2.13.0");
    const of = (python: string) => pipArguments({ path: "python3", version: python, pip: "25.0" }, "wheels", null);
    expect(of("3.11.7")).not.toContain("--python-version");
    expect(of("3.8.10").join(" ")).toContain("--implementation cp --python-version 3.12 --abi cp312 torch==");
    expect(of("3.15.0")).toContain("--python-version");
  });
});
