import { readFileSync } from "node:fs";
import * as torch from "../torch/index.js";

let known: Record<string, string> | undefined;

/** What made a run: the versions of this package, of libtorch and of Node. */
export function versions(): Record<string, string> {
  known ??= { "stable-diffcoder": packageVersion(), libtorch: torch.build().torch, node: process.versions.node };
  return known;
}

function packageVersion(): string {
  const manifest = new URL("../../package.json", import.meta.url);
  return (JSON.parse(readFileSync(manifest, "utf8")) as { version: string }).version;
}
