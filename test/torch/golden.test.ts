// Every operator family against Python's torch: values, dtypes, shapes and gradients.
import { describe, it } from "vitest";
import * as torch from "../../lib/torch/index.js";
import { fixture, Golden, titled } from "./golden-cases.js";

const golden = new Golden();

describe("operators agree with Python's torch", () => {
  for (const { title, one } of titled()) it(title, () => torch.scope(() => golden.run(one)));
});

describe("indexing agrees with Python's []", () => {
  for (const one of fixture.indexing) it(JSON.stringify(one.index), () => torch.scope(() => golden.runIndex(one)));
});
