import type { Command } from "commander";
import { describe, expect, it } from "vitest";
import { checkpointCommand, launchCommand, serveCommand, trainCommand } from "../../lib/cli/commands.js";

/** Reads a command line as a person types it, without running it. */
function parse(command: Command, ...words: string[]): { options: Record<string, unknown>; args: string[] } {
  command.exitOverride().configureOutput({ writeErr: () => {}, writeOut: () => {} });
  command.action(() => {});
  command.parse(words, { from: "user" });
  return { options: command.opts(), args: command.args };
}

function exportCommand(): Command {
  const found = checkpointCommand().commands.find((command) => command.name() === "export");
  if (!found) throw new Error("checkpoint has no command export");
  return found;
}

describe("options of several commands", () => {
  it.each([
    ["4GB", 4e9],
    ["4G", 4e9],
    ["4GiB", 4 * 2 ** 30],
    ["1.5 kib", 1536],
    ["5000000", 5e6],
    ["12b", 12],
  ])("read the size %s as %d bytes", (text, bytes) => {
    expect(parse(serveCommand(), "model", "--cache-bytes", text).options.cacheBytes).toBe(bytes);
    expect(parse(exportCommand(), "folder", "--out", "x", "--max-shard", text).options.maxShard).toBe(bytes);
  });

  it.each(["", "0", "-1", "many", "4GiBs", "1e9", "4 bananas"])("refuse the size %j", (text) => {
    expect(() => parse(serveCommand(), "model", `--cache-bytes=${text}`)).toThrow(/expected a size such as/);
    expect(() => parse(exportCommand(), "folder", "--out", "x", `--max-shard=${text}`)).toThrow(/expected a size/);
  });

  it("refuse a size outside the option's limits", () => {
    expect(parse(serveCommand(), "model", "--body-limit", "8MiB").options.bodyLimit).toBe(8 * 2 ** 20);
    expect(() => parse(serveCommand(), "model", "--body-limit=12b")).toThrow(
      /expected a size .* from 1024 to 1073741824/,
    );
  });

  it("know which ports there are", () => {
    expect(parse(serveCommand(), "model", "--port", "0").options.port).toBe(0);
    expect(parse(serveCommand(), "model", "--port", "65535").options.port).toBe(65_535);
    expect(() => parse(serveCommand(), "model", "--port", "65536")).toThrow(/expected an integer from 0 to 65535/);
    expect(() => parse(launchCommand(), "--master-port", "0", "x.ts")).toThrow(/expected an integer from 1 to 65535/);
  });
});

describe("serve", () => {
  it.each([
    [["--max-running", "4"], "--max-num-seqs"],
    [["--max-batch-tokens", "4"], "--max-num-batched-tokens"],
    [["--max-length=4"], "--max-model-len"],
    [["--int8"], "--quantization int8"],
  ])("refuses the flag of before, %j, with that of today", (words, today) => {
    expect(() => parse(serveCommand(), "model", ...words)).toThrow(`It is called ${today} now.`);
  });
});

describe("train", () => {
  it("does not take the file for the folder of a flag before it", () => {
    const { options, args } = parse(trainCommand(), "--tensorboard", "recipe.yaml");
    expect([options.tensorboard, args]).toEqual([true, ["recipe.yaml"]]);
    const named = parse(trainCommand(), "--tensorboard-dir", "board", "recipe.yaml");
    expect([named.options.tensorboardDir, named.args]).toEqual(["board", ["recipe.yaml"]]);
  });
});
