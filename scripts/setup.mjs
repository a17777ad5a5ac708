// npm run setup: makes the checkout ready to run. See --help.
import { parseArgs } from "node:util";
import { parts, printProblem, setup } from "./lib/setup.mjs";

const help = `Usage: npm run setup [-- options]
       npx diffcoder setup [options]

Installs npm packages, finds or fetches libtorch, builds the addon and compiles lib/; only what is stale.

  --only PART   one of ${parts.join(", ")}; may be repeated
  --force       build the addon and dist/ from scratch; takes no addon from the user's cache
  --help        show this

libtorch is looked for in LIBTORCH (a folder with lib/ and include/), the active Python's torch and .cache/libtorch;
else its CPU build is fetched with pip. More variables: DIFFCODER_JOBS, DIFFCODER_ADDON_CACHE, DIFFCODER_ANY_LIBTORCH,
DIFFCODER_TORCH_INDEX, CXX, PYTHON, CUDA_HOME, TORCH_CUDA_ARCH_LIST (docs/setup.md).`;

try {
  const { values } = parseArgs({
    options: {
      only: { type: "string", multiple: true },
      force: { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  const unknown = values.only?.find((part) => !parts.includes(part));
  if (values.help) {
    console.log(help);
  } else if (unknown) {
    console.error(`--only ${unknown}: not one of ${parts.join(", ")}`);
    process.exitCode = 2;
  } else {
    const { did } = await setup({ only: values.only, force: values.force });
    if (did.length === 0) console.log("Everything is up to date.");
  }
} catch (error) {
  if (error?.code?.startsWith?.("ERR_PARSE_ARGS")) {
    console.error(`${error.message}\n\n${help}`);
    process.exitCode = 2;
  } else {
    printProblem(error);
    process.exitCode = 1;
  }
}
