import { describe, expect, it } from "vitest";
import { diffcoder, expectExplained, scratchFolder } from "./support.js";

const folder = scratchFolder();
const COMMANDS = ["quickstart", "train", "generate", "checkpoint", "doctor", "setup"];

describe("diffcoder", () => {
  it("lists the commands, on standard output when asked and as an error when called without one", async () => {
    const asked = await diffcoder(["--help"]);
    expect(asked.code).toBe(0);
    for (const name of COMMANDS) expect(asked.stdout).toMatch(new RegExp(`^  ${name} `, "m"));
    const bare = await diffcoder([]);
    expect(bare.code).toBe(1);
    expect(bare.stdout).toBe("");
    expect(bare.stderr).toBe(asked.stdout);
  });

  it.each(["quickstart", "train", "generate", "doctor"])(
    "explains %s in 80 columns, without the addon",
    async (name) => {
      const nothingBuilt = { env: { DIFFCODER_ADDON: "/nowhere/diffcoder.node" } };
      const [help, other] = [
        await diffcoder([name, "--help"], nothingBuilt),
        await diffcoder(["help", name], nothingBuilt),
      ];
      expect(help.code, help.stderr).toBe(0);
      expect(help.stdout).toMatch(new RegExp(`^Usage: diffcoder ${name} `));
      expect(help.stdout).toContain("Options:");
      expect(other.stdout).toBe(help.stdout);
      expect(Math.max(...help.stdout.split("\n").map((line) => line.length))).toBeLessThanOrEqual(80);
    },
  );

  it("says its version", async () => {
    expect((await diffcoder(["--version"])).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  it("explains what it does not know, and what was meant", async () => {
    expectExplained(await diffcoder(["trian"]), /unknown command 'trian'\n\(Did you mean train\?\)/);
    expectExplained(
      await diffcoder(["generate", "--colour", "red"]),
      /unknown option '--colour'[\s\S]*generate --help/,
    );
    expectExplained(await diffcoder(["train"]), /missing required argument 'curriculum'/);
    expectExplained(await diffcoder(["train", "a.ts", "b.ts"]), /too many arguments/);
  });

  it("names the addon that does not load, and the way out", async () => {
    const ended = await diffcoder(["generate", "nowhere", "x"], { env: { DIFFCODER_ADDON: `${folder.path}/no.node` } });
    expectExplained(ended, /no\.node does not exist[\s\S]*npm run setup[\s\S]*doctor/);
  });

  it("looks at the machine", async () => {
    const { code, stdout } = await diffcoder(["doctor"]);
    expect(code, stdout).toBe(0);
    expect(stdout).toMatch(/libtorch +2\.\d+/);
    expect(stdout).toContain("diffcoder can run here.");
  });
});
