import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { projectRoot } from "../../scripts/lib/paths.mjs";

const read = (name: string) => readFileSync(join(projectRoot, "examples", "deploy", name), "utf8");

describe("the Dockerfile", () => {
  it("installs what docs/setup.md says that set-up needs, before set-up runs", () => {
    const [build] = read("Dockerfile")
      .split(/^FROM /m)
      .slice(1);
    const [before] = build.split("npm run setup");
    const installed = [...before.matchAll(/apt-get install -y --no-install-recommends ([^\\\n]*)/g)].flatMap(
      ([, names]) => names.trim().split(" "),
    );
    const documented = [
      ...readFileSync(join(projectRoot, "docs", "setup.md"), "utf8").matchAll(/`apt-get install ([^`]*)`/g),
    ].flatMap(([, names]) => names.split(" "));
    expect(documented).toContain("python3-pip"); // it fetches libtorch
    for (const name of documented) expect(installed).toContain(name);
  });

  it("takes nothing that was made on the host into the image", () => {
    const ignored = read("Dockerfile.dockerignore").split("\n");
    for (const name of ["node_modules", "build", "dist", ".cache"]) expect(ignored).toContain(name);
  });
});
