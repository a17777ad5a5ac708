// node scripts/native-flags.mjs cmake DIR    all flags as CMake set() lines; writes the translation units to DIR/units
// node scripts/native-flags.mjs gyp KEY      one list, an item a line, for binding.gyp
// node scripts/native-flags.mjs link FILE    makes the link beside the addon FILE through which it finds libtorch
// node scripts/native-flags.mjs stamp        notes what build/Release/diffcoder.node was built from (after node-gyp), and links
// The libtorch is DIFFCODER_LIBTORCH (set-up gives it), else the one that findLibtorch takes.
import { join, relative } from "node:path";
import { addonStamp, linkLibtorch } from "./lib/addon.mjs";
import { describeAttempts, findLibtorch, inspectLibtorch } from "./lib/libtorch.mjs";
import { nativeFlags, writeUnits } from "./lib/native-flags.mjs";
import { pathsOf, projectRoot } from "./lib/paths.mjs";
import { writeStamp } from "./lib/stamp.mjs";

function chosenLibtorch() {
  const given = process.env.DIFFCODER_LIBTORCH;
  if (given) {
    const { libtorch, refused } = inspectLibtorch(given, { anyVersion: true });
    if (!libtorch) throw new Error(`${given}: ${refused}`);
    return libtorch;
  }
  const { libtorch, tried } = findLibtorch();
  if (!libtorch)
    throw new Error(`no libtorch:\n  ${describeAttempts(tried).join("\n  ")}\nrun: npm run setup -- --only libtorch`);
  return libtorch;
}

const upperCase = (key) => key.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase();
const listOf = (value) => (Array.isArray(value) ? value : [value ?? ""]);

function asCmake(flags) {
  const quoted = (item) => String(item).replace(/[\\"$;]/g, "\\$&");
  return Object.entries(flags).map(
    ([key, value]) => `set(DIFFCODER_${upperCase(key)} "${listOf(value).map(quoted).join(";")}")`,
  );
}

/** binding.gyp has no lists of its own kind: what CMake derives from the lists is spelt out here. */
function asGyp(flags, key) {
  const headers = [...flags.nodeIncludes, ...flags.torchIncludes, ...flags.cudaIncludes];
  const derived = {
    cudaSystemIncludes: () => headers.map((folder) => `-isystem=${folder}`), // nvcc's own spelling
    systemIncludes: () => headers.map((folder) => `-isystem${folder}`),
    units: () => writeUnits(join(pathsOf().build, "units")).map((path) => relative(projectRoot, path)),
    // $ORIGIN as gyp's splitting, make and the shell leave it: \\$$ is \$$, then \$, then $.
    rpathFlags: () => flags.rpaths.map((folder) => `-Wl,-rpath,${folder.replaceAll("$", () => "\\\\$$")}`),
    defineFlags: () => flags.defines.map((name) => `-D${name}`),
    nvcc: () => [`${flags.cudaToolkit}/bin/nvcc`],
    cudaGencode: () =>
      flags.cudaArchitectures.flatMap((item) => {
        const number = item.replace("-real", "");
        const real = `-gencode=arch=compute_${number},code=sm_${number}`;
        return item === number ? [real, `-gencode=arch=compute_${number},code=compute_${number}`] : [real];
      }),
  };
  const value = key in derived ? derived[key]() : flags[key];
  if (value === undefined) throw new Error(`no such list: ${key}`);
  // gyp splits the output as a shell would
  return listOf(value).map((item) => (/\s/.test(String(item)) ? `'${item}'` : String(item)));
}

try {
  const [format, key] = process.argv.slice(2);
  const libtorch = chosenLibtorch();
  if (format === "cmake" && key) {
    const units = writeUnits(join(key, "units"));
    console.log(asCmake({ ...nativeFlags(libtorch), units, libraryFolder: join(libtorch.root, "lib") }).join("\n"));
  } else if (format === "link" && key) linkLibtorch(key, libtorch);
  else if (format === "gyp" && key) console.log(asGyp(nativeFlags(libtorch), key).join("\n"));
  else if (format === "stamp") {
    writeStamp(pathsOf().addonStamp, addonStamp(libtorch));
    linkLibtorch(pathsOf().addon, libtorch);
  } else throw new Error("usage: native-flags.mjs cmake DIR | gyp KEY | link FILE | stamp");
} catch (error) {
  console.error(`native-flags: ${error.message}`);
  process.exitCode = 1;
}
