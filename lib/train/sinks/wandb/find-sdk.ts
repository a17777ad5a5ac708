import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { TrainError } from "../../errors.js";

/**
 * The address of W&B's SDK: beside this package, or where the program was started.
 *
 * @throws TrainError TRAIN_OPTIONS with the command that installs it
 */
export function findSdk(name = "@wandb/sdk"): string {
  const isPath = /^(\.|\/|file:)/.test(name);
  if (isPath) return name.startsWith("file:") ? name : pathToFileURL(resolve(name)).href;
  for (const from of [import.meta.url, join(process.cwd(), "package.json")]) {
    try {
      return pathToFileURL(createRequire(from).resolve(name)).href;
    } catch {
      // not there; perhaps at the next place
    }
  }
  // graphql is a peer of the SDK that it does not bring itself.
  throw new TrainError("TRAIN_OPTIONS", `wandb: ${name} is not installed. Run: npm install ${name} graphql`);
}
