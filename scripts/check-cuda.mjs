// npm run check:cuda: compiles and links the addon against a CUDA libtorch into build-cuda/. Needs nvcc, but no GPU and no driver.
import { statSync } from "node:fs";
import { basename } from "node:path";
import { buildAddon } from "./lib/addon.mjs";
import { cudaArchitectures, cudaToolkit, nvccVersion } from "./lib/cuda.mjs";
import { hasDeviceCode, neededLibraries, unresolvedSymbols } from "./lib/elf.mjs";
import { findLibtorch } from "./lib/libtorch.mjs";
import { withLock } from "./lib/lock.mjs";
import { nativeFiles } from "./lib/native-flags.mjs";
import { pathsOf, projectRoot } from "./lib/paths.mjs";
import { SetupProblem } from "./lib/problem.mjs";
import { elapsed, Progress } from "./lib/progress.mjs";
import { printProblem, setup } from "./lib/setup.mjs";

if (process.argv.includes("--help")) {
  console.log(`Usage: LIBTORCH=DIR CUDA_HOME=DIR [TORCH_CUDA_ARCH_LIST=9.0a] npm run check:cuda [-- --force]

Compiles and links native/ (with its .cu files) against the CUDA build of libtorch in LIBTORCH, into build-cuda/. build/ is left alone.
Then checks that the CUDA libraries are among those the addon loads, and that they define every symbol it uses.`);
  process.exit();
}

try {
  const { libtorch, tried } = findLibtorch();
  if (!libtorch?.cuda) {
    const found = libtorch ? `${libtorch.root} is a CPU build` : (tried[0].refused ?? "none found");
    throw new SetupProblem("NO_CUDA_LIBTORCH", `There is no CUDA build of libtorch: ${found}.`, [
      "set LIBTORCH to one (a folder with lib/ and include/), or activate a Python that has a CUDA torch",
    ]);
  }
  await setup({ only: ["packages"] });
  const progress = new Progress();
  progress.expect(1);
  const started = Date.now();
  const addon = await withLock(`${pathsOf().lock}-cuda`, () =>
    progress.step(`build the addon (libtorch ${libtorch.version}, CUDA)`, (report) =>
      buildAddon(libtorch, { out: "build-cuda", force: process.argv.includes("--force"), report }),
    ),
  );
  const took = Date.now() - started;

  const kernels = nativeFiles(".cu");
  const needed = neededLibraries(addon);
  const wrong = [];
  for (const name of ["libtorch_cuda.so", "libc10_cuda.so"]) {
    if (!needed.includes(name)) wrong.push(`${name} is not among the libraries it loads`);
  }
  if (kernels.length > 0 && !hasDeviceCode(addon)) wrong.push("it holds no device code, though there are .cu files");
  const unresolved = unresolvedSymbols(addon);
  if (unresolved.length > 0) wrong.push(`no library defines:\n    ${unresolved.slice(0, 20).join("\n    ")}`);

  const toolkit = cudaToolkit(process.env, libtorch.root);
  console.log(`
libtorch       ${libtorch.version} (CUDA ${libtorch.cudaVersion ?? "?"})
toolkit        nvcc ${toolkit ? nvccVersion(toolkit) : "?"}
architectures  ${cudaArchitectures().join(" ")}
sources        ${nativeFiles(".cc").length} .cc, ${kernels.length} .cu${kernels.length > 0 ? `: ${kernels.map((file) => basename(file)).join(" ")}` : ""}
addon          build-cuda/Release/${basename(addon)}, ${(statSync(addon).size / 1e6).toFixed(1)} MB, device code: ${hasDeviceCode(addon) ? "yes" : "no"}
loads          ${needed.join(" ")}
unresolved     ${unresolved.length} symbols
built in       ${elapsed(took)}
`);
  if (wrong.length > 0) {
    console.error(`The addon is not right for CUDA:\n${wrong.map((line) => `  - ${line}`).join("\n")}`);
    process.exitCode = 1;
  } else {
    console.log(
      `The sources in ${basename(projectRoot)}/native compile and link for CUDA. Not run on a GPU: that is npm run test:gpu.`,
    );
  }
} catch (error) {
  printProblem(error);
  process.exitCode = 1;
}
