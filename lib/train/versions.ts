import * as torch from "../torch/index.js";
import { packageVersion } from "../torch/package-version.js";

let known: Record<string, string> | undefined;

/** What made a run: the versions of this package, of libtorch and of Node. */
export function versions(): Record<string, string> {
  known ??= { "stable-diffcoder": packageVersion(), libtorch: torch.build().torch, node: process.versions.node };
  return known;
}
