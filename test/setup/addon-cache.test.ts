import {
  chmodSync,
  cpSync,
  existsSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  utimesSync,
} from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { addonKey, addonStaleness, provideAddon } from "../../scripts/lib/addon.mjs";
import { addonCacheFolder, keepAddon, keptEntries, takeAddon } from "../../scripts/lib/addon-cache.mjs";
import { inspectLibtorch } from "../../scripts/lib/libtorch.mjs";
import { nativeFiles, nativeUnits, writeUnits } from "../../scripts/lib/native-flags.mjs";
import { distStaleness } from "../../scripts/lib/typescript.mjs";
import {
  cleanEnvironment,
  fakeLibtorch,
  pretendBuilt,
  put,
  runScript,
  scratchCheckout,
  scratchFolder,
} from "./scratch.js";

function libtorchIn(folder: string) {
  const { libtorch, refused } = inspectLibtorch(folder);
  if (!libtorch) throw new Error(refused);
  return libtorch;
}

/** A copy of a checkout with what was built, as `cp -r` makes it: all files have new times. */
function copyOf(root: string): string {
  const copy = join(scratchFolder(), "copy");
  cpSync(root, copy, { recursive: true, verbatimSymlinks: true });
  return copy;
}

describe("a copied or moved checkout", () => {
  it("is not built again, and finds the libtorch that it brings along", () => {
    const root = scratchCheckout();
    const env = pretendBuilt(root);
    expect(runScript(root, "scripts/setup.mjs", ["--only", "typescript"], env).status).toBe(0);
    const copy = copyOf(root);
    renameSync(root, `${root}-moved`);
    try {
      for (const place of [copy, `${root}-moved`]) {
        const there = { ...env, LIBTORCH: join(place, "fake-libtorch") };
        const options = { root: place, env: there };
        expect(addonStaleness(libtorchIn(there.LIBTORCH), options)).toEqual([]);
        expect(distStaleness({ root: place })).toEqual([]);
        expect(runScript(place, "scripts/setup.mjs", [], there).all).toBe("Everything is up to date.\n");
      }
    } finally {
      rmSync(`${root}-moved`, { recursive: true });
    }
  });

  it("has the same key in the cache, wherever it and libtorch lie", () => {
    const root = scratchCheckout();
    const env = pretendBuilt(root);
    const copy = copyOf(root);
    const elsewhere = fakeLibtorch(scratchFolder());
    const key = addonKey(libtorchIn(env.LIBTORCH ?? ""), { root, env });
    expect(key).toMatch(/^[0-9a-f]{40}$/);
    expect(addonKey(libtorchIn(join(copy, "fake-libtorch")), { root: copy, env })).toBe(key);
    expect(addonKey(libtorchIn(elsewhere), { root: copy, env })).toBe(key);
  });

  it("is only linked when libtorch lies elsewhere", async () => {
    const root = scratchCheckout();
    const env = pretendBuilt(root);
    const libtorch = libtorchIn(fakeLibtorch(scratchFolder()));
    expect(await provideAddon(libtorch, { root, env })).toBe("linked");
    expect(addonStaleness(libtorch, { root, env })).toEqual([]);
    expect(existsSync(join(root, "build", "Release", "libtorch", "libc10.so"))).toBe(process.platform === "linux");
  });
});

describe("the key of an addon in the cache", () => {
  it("changes with sources, libtorch, the kind of build, flags and compiler", () => {
    const root = scratchCheckout();
    const env = cleanEnvironment();
    const libtorch = libtorchIn(fakeLibtorch(scratchFolder()));
    const cuda = libtorchIn(fakeLibtorch(scratchFolder(), { cuda: true }));
    const other = libtorchIn(fakeLibtorch(scratchFolder(), { version: "2.12.0+cpu" }));
    const compiler = put(join(scratchFolder(), "c++"), "#!/bin/sh\necho 'g++ 99.1.0'\n");
    chmodSync(compiler, 0o755);
    const keys = [
      addonKey(libtorch, { root, env }),
      addonKey(cuda, { root, env }),
      addonKey(cuda, { root, env: { ...env, TORCH_CUDA_ARCH_LIST: "9.0a" } }),
      addonKey(other, { root, env }),
      addonKey(libtorch, { root, env: { ...env, CXXFLAGS: "-g" } }),
      addonKey(libtorch, { root, env: { ...env, CXX: compiler } }),
    ];
    put(join(root, "native", "addon.cc"), "int answer() { return 43; }\n");
    keys.push(addonKey(libtorch, { root, env }));
    expect(new Set(keys).size).toBe(keys.length);
  });
});

describe("the user's cache of addons", () => {
  it("lies where the environment says, and can be switched off", () => {
    expect(addonCacheFolder({ XDG_CACHE_HOME: "/x", HOME: "/h" })).toBe("/x/diffcoder/addons");
    expect(addonCacheFolder({ HOME: "/h" })).toMatch(/^\/h\/(\.cache|Library\/Caches)\/diffcoder\/addons$/);
    expect(addonCacheFolder({ DIFFCODER_ADDON_CACHE: "/c", XDG_CACHE_HOME: "/x" })).toBe("/c");
    expect(addonCacheFolder({ DIFFCODER_ADDON_CACHE: "off", XDG_CACHE_HOME: "/x" })).toBeNull();
    const addon = put(join(scratchFolder(), "diffcoder.node"), "addon");
    expect(keepAddon(null, "key", addon)).toBe(false);
    expect(takeAddon(null, "key", addon)).toBe(false);
  });

  it("gives a second checkout its addon, and set-up and doctor say so", () => {
    const cache = scratchFolder();
    const root = scratchCheckout();
    const env: NodeJS.ProcessEnv = { ...pretendBuilt(root), DIFFCODER_ADDON_CACHE: cache };
    const libtorch = libtorchIn(env.LIBTORCH ?? "");
    keepAddon(cache, addonKey(libtorch, { root, env }), join(root, "build", "Release", "diffcoder.node"));
    const second = scratchCheckout();
    const run = runScript(second, "scripts/setup.mjs", ["--only", "addon"], env);
    expect(run.all).toMatch(/build the addon \(libtorch 2\.13\.0\+cpu\): from the cache, done in/);
    expect(readFileSync(join(second, "build", "Release", "diffcoder.node"), "utf8")).toBe("not a library");
    expect(addonStaleness(libtorch, { root: second, env })).toEqual([]);
    const doctor = JSON.parse(runScript(second, "scripts/doctor.mjs", ["--json"], env).out);
    expect(doctor.facts.addon.stamp.cached).toBe(addonKey(libtorch, { root: second, env }));
  });

  it("removes an entry that is not whole, and does not give it", () => {
    const cache = scratchFolder();
    const addon = put(join(scratchFolder(), "diffcoder.node"), "the bytes of an addon");
    const target = join(scratchFolder(), "Release", "diffcoder.node");
    keepAddon(cache, "whole", addon);
    expect(takeAddon(cache, "whole", target)).toBe(true);
    expect(readFileSync(target, "utf8")).toBe("the bytes of an addon");
    for (const [key, damage] of [
      ["truncated", () => truncateSync(join(cache, "truncated", "diffcoder.node"), 3)],
      ["changed", () => put(join(cache, "changed", "diffcoder.node"), "the bytes of an odder")],
      ["nameless", () => rmSync(join(cache, "nameless", "addon.json"))],
      ["missing", () => rmSync(join(cache, "missing", "diffcoder.node"))],
    ] as const) {
      keepAddon(cache, key, addon);
      damage();
      expect([key, takeAddon(cache, key, `${target}-${key}`)]).toEqual([key, false]);
      expect(existsSync(`${target}-${key}`)).toBe(false);
      expect(readdirSync(cache)).toEqual(["whole"]);
    }
  });

  it("keeps the entries used last, and removes what a killed set-up left", () => {
    const cache = scratchFolder();
    const addon = put(join(scratchFolder(), "diffcoder.node"), "addon");
    for (let i = 0; i < keptEntries; i++) {
      keepAddon(cache, `key-${i}`, addon);
      utimesSync(join(cache, `key-${i}`), new Date(), new Date(Date.now() - 100_000 + i * 1000));
    }
    put(join(cache, ".left-by-a-killed-one", "diffcoder.node"), "half an add");
    utimesSync(join(cache, ".left-by-a-killed-one"), new Date(), new Date(Date.now() - 7_200_000));
    put(join(cache, ".of-a-busy-one", "diffcoder.node"), "half an add");
    takeAddon(cache, "key-0", join(scratchFolder(), "diffcoder.node"));
    keepAddon(cache, "new", addon);
    const kept = ["key-0", ...Array.from({ length: keptEntries - 2 }, (_, i) => `key-${i + 2}`), "new"];
    expect(readdirSync(cache).sort()).toEqual([".of-a-busy-one", ...kept]);
  });

  it("is whole after several set-ups kept the same addon at once", async () => {
    const cache = scratchFolder();
    const addon = put(join(scratchFolder(), "diffcoder.node"), "addon".repeat(100_000));
    const module = JSON.stringify(join(import.meta.dirname, "../../scripts/lib/addon-cache.mjs"));
    const script = `const { keepAddon } = await import(${module});
for (let i = 0; i < 20; i++) if (!keepAddon(${JSON.stringify(cache)}, "key", ${JSON.stringify(addon)})) process.exitCode = 1;`;
    const path = put(join(scratchFolder(), "keep.mjs"), script);
    const { spawn } = await import("node:child_process");
    const codes = Array.from(
      { length: 3 },
      () => new Promise((resolve) => spawn(process.execPath, [path]).on("close", resolve)),
    );
    expect(await Promise.all(codes)).toEqual([0, 0, 0]);
    expect(readdirSync(cache)).toEqual(["key"]);
    expect(takeAddon(cache, "key", join(scratchFolder(), "diffcoder.node"))).toBe(true);
  });
});

describe("translation units", () => {
  it("hold every source once, and are written only when they change", () => {
    const files = nativeUnits().flatMap((unit) => unit.files);
    expect(files.sort()).toEqual(nativeFiles(".cc"));
    const root = scratchCheckout();
    put(join(root, "native", "kernels", "new_cpu.cc"));
    const folder = join(root, "build", "units");
    const [boundary, kernels] = writeUnits(folder, root);
    expect(readFileSync(boundary ?? "", "utf8")).toBe('#include "addon.cc"\n');
    expect(readFileSync(kernels ?? "", "utf8")).toBe('#include "kernels/new_cpu.cc"\n');
    utimesSync(boundary ?? "", new Date(0), new Date(0));
    put(join(root, "native", "kernels", "second_cpu.cc"));
    writeUnits(folder, root);
    expect(readFileSync(kernels ?? "", "utf8")).toContain("second_cpu.cc");
    expect(readFileSync(boundary ?? "", "utf8")).toBe('#include "addon.cc"\n');
  });
});
