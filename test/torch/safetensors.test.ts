// Files of Python's safetensors and ours are the same bytes; broken ones are refused, whatever is broken.
import { execFileSync } from "node:child_process";
import {
  closeSync,
  existsSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import * as torch from "../../lib/torch/index.js";
import { leftBehind, runChild, scratchFolder, thrownBy, torchError } from "./support.js";

const folder = scratchFolder();
const golden = fileURLToPath(new URL("../fixtures/torch/python.safetensors", import.meta.url));
let count = 0;
const fresh = () => join(folder, `${count++}.safetensors`);

/** The tensors of scripts/fixtures/torch_safetensors.py. */
function goldenTensors(): Record<string, torch.Tensor> {
  const names =
    "uint8 int8 int16 uint16 int32 uint32 int64 uint64 float16 bfloat16 float32 float64 float8_e5m2 float8_e4m3fn";
  const tensors: Record<string, torch.Tensor> = { ﬀ: torch.ones([1]) };
  for (const dtype of names.split(" ") as torch.DType[])
    tensors[`of.${dtype}`] = torch.tensor([0, 1, 2, 3, 4, 5], { dtype }).view([2, 3]);
  tensors["of.bool"] = torch.tensor([
    [false, true, false],
    [true, false, true],
  ]);
  tensors.scalar = torch.tensor(2.5);
  tensors.nothing = torch.zeros([0, 4]);
  tensors.odd = torch.tensor([1, 2, 3], { dtype: "uint8" });
  tensors["12"] = torch.tensor([12n]);
  tensors['quote " \\ é 漢 \u{1f600}'] = torch.tensor([-1.5, Number.POSITIVE_INFINITY]);
  return tensors;
}

/** A file with this header and these many bytes of data. */
function write(header: string | Buffer | object, data = 0, length?: bigint): string {
  const text = typeof header === "string" ? header : JSON.stringify(header);
  const json = Buffer.isBuffer(header) ? header : Buffer.from(text);
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(length ?? BigInt(json.length));
  const path = fresh();
  writeFileSync(path, Buffer.concat([prefix, json, Buffer.alloc(data, 1)]));
  return path;
}

const open = (path: string) => {
  const file = torch.openSafetensors(path);
  file.dispose();
};

describe("agrees with Python's safetensors", () => {
  it("reads its files", () => {
    torch.scope(() => {
      using file = torch.openSafetensors(golden);
      const expected = goldenTensors();
      expect(file.keys().sort()).toEqual(Object.keys(expected).sort());
      expect(file.metadata).toEqual({ format: 'pt "quoted"' });
      for (const [name, want] of Object.entries(expected)) {
        const tensor = file.get(name);
        expect([tensor.dtype, tensor.shape], name).toEqual([want.dtype, want.shape]);
        expect(file.info(name)).toEqual(expect.objectContaining({ dtype: want.dtype, shape: want.shape }));
        expect(tensor.toTypedArray(), name).toEqual(want.toTypedArray());
      }
      expect(file.has("of.bool")).toBe(true);
      expect(file.has("of.none")).toBe(false);
    });
  });

  it("writes the same bytes", () => {
    torch.scope(() => {
      const path = fresh();
      torch.saveSafetensors(path, goldenTensors(), { format: 'pt "quoted"' });
      expect(readFileSync(path).equals(readFileSync(golden))).toBe(true);
    });
  });
});

describe("round trips", () => {
  it("of anything with a dtype that the format has", () => {
    const dtypes = fc.constantFrom<torch.DType>(
      "float32",
      "float64",
      "int64",
      "uint8",
      "bool",
      "bfloat16",
      "float16",
      "int16",
    );
    const entries = fc.uniqueArray(
      fc.record({
        name: fc.string({ unit: "grapheme", maxLength: 12 }),
        dtype: dtypes,
        shape: fc.array(fc.nat(3), { maxLength: 3 }),
      }),
      { selector: (entry) => entry.name, maxLength: 6 },
    );
    const metadata = fc.dictionary(fc.string({ maxLength: 8 }), fc.string({ unit: "grapheme", maxLength: 8 }), {
      maxKeys: 3,
    });
    fc.assert(
      fc.property(entries, metadata, (list, meta) => {
        fc.pre(
          list.every((entry) => !["__metadata__", "__proto__"].includes(entry.name)) &&
            !Object.hasOwn(meta, "__proto__"),
        );
        torch.scope(() => {
          const tensors = Object.fromEntries(
            list.map(({ name, dtype, shape }, i) => [name, torch.randn(shape).add(i).mul(10).to(dtype)]),
          );
          const path = fresh();
          torch.saveSafetensors(path, tensors, meta);
          using file = torch.openSafetensors(path);
          expect(file.metadata).toEqual({ ...meta });
          expect(new Set(file.keys())).toEqual(new Set(Object.keys(tensors)));
          for (const [name, tensor] of Object.entries(tensors)) {
            expect(file.get(name).shape).toEqual(tensor.shape);
            expect(file.get(name).toTypedArray()).toEqual(tensor.toTypedArray());
          }
        });
      }),
      { numRuns: 60 },
    );
  });

  it("of views, transposes, and what requires a gradient", () => {
    torch.scope(() => {
      const path = fresh();
      const x = torch.arange(6, { dtype: "float32" }).view([2, 3]).requiresGrad_();
      torch.saveSafetensors(path, { t: x.t(), part: x.index(torch.slice(), 1), wide: x.index(0).expand([2, 3]) });
      using file = torch.openSafetensors(path);
      expect(file.get("t").tolist()).toEqual([
        [0, 3],
        [1, 4],
        [2, 5],
      ]);
      expect(file.get("part").tolist()).toEqual([1, 4]);
      expect(file.get("wide").tolist()).toEqual([
        [0, 1, 2],
        [0, 1, 2],
      ]);
    });
  });

  it("leave no tensors and no files behind", () => {
    expect(
      leftBehind(() => {
        const path = fresh();
        torch.scope(() => torch.saveSafetensors(path, { x: torch.ones([3]) }));
        using file = torch.openSafetensors(path);
        torch.scope(() => void file.get("x").add(1));
      }),
    ).toBe(0);
    expect(readdirSync(folder).filter((name) => name.endsWith(".tmp"))).toEqual([]);
  });
});

describe("the open file", () => {
  it("tensors outlive it, and writing to them does not touch it", () => {
    torch.scope(() => {
      const path = fresh();
      torch.saveSafetensors(path, { x: torch.tensor([1, 2, 3]) });
      const before = readFileSync(path);
      const file = torch.openSafetensors(path);
      const x = file.get("x");
      file.dispose();
      file.dispose();
      x.mul_(10);
      expect(x.tolist()).toEqual([10, 20, 30]);
      expect(readFileSync(path).equals(before)).toBe(true);
      expect(() => file.get("x")).toThrowError(torchError("TORCH_DISPOSED"));
      expect(file.keys()).toEqual(["x"]);
    });
  });

  it("stays open beyond the scope that opened it", () => {
    const path = fresh();
    torch.scope(() => torch.saveSafetensors(path, { x: torch.ones([2]) }));
    using file = torch.scope(() => torch.openSafetensors(path));
    torch.scope(() => expect(file.get("x").tolist()).toEqual([1, 1]));
  });

  it("of 200 MB costs no memory until it is read, and little when it ends early", () => {
    const path = fresh();
    const elements = 50 * 2 ** 20;
    const header = Buffer.from(
      JSON.stringify({ big: { dtype: "F32", shape: [elements], data_offsets: [0, elements * 4] } }).padEnd(96),
    );
    const fd = openSync(path, "w");
    const prefix = Buffer.alloc(8);
    prefix.writeBigUInt64LE(BigInt(header.length));
    writeSync(fd, Buffer.concat([prefix, header]));
    ftruncateSync(fd, 8 + header.length + elements * 4);
    const before = process.memoryUsage().rss;
    torch.scope(() => {
      using file = torch.openSafetensors(path);
      expect(process.memoryUsage().rss - before).toBeLessThan(30 * 2 ** 20);
      ftruncateSync(fd, 100);
      expect(() => file.get("big")).toThrowError(torchError("TORCH_IO", /truncated while it was open/));
    });
    closeSync(fd);
  });

  it("shrinks or changes while it is open: an error, and what was read stays", () => {
    torch.scope(() => {
      const path = fresh();
      const tensors = { x: torch.ones([1000]), y: torch.zeros([1000]) };
      torch.saveSafetensors(path, tensors);
      const whole = readFileSync(path);
      using file = torch.openSafetensors(path);
      const x = file.get("x");
      const y = file.get("y");
      for (const length of [0, 8, 100, whole.length - 4000, whole.length - 1]) {
        truncateSync(path, length);
        expect(() => file.get("x")).toThrowError(torchError("TORCH_IO"));
        expect(() => file.get("y")).toThrowError(torchError("TORCH_IO"));
        writeFileSync(path, whole);
      }
      expect(() => file.get("x")).toThrowError(torchError("TORCH_IO", /modified while it was open/));
      expect([x.sum().item(), y.sum().item()]).toEqual([1000, 0]);
      using again = torch.openSafetensors(path);
      torch.saveSafetensors(path, { x: torch.zeros([1]) }); // renamed over it: another file
      expect(again.get("x").sum().item()).toBe(1000);
    });
  });

  it.runIf(process.platform === "linux")("is no FIFO, device or folder", () => {
    const fifo = fresh();
    execFileSync("mkfifo", [fifo]);
    for (const path of [fifo, "/dev/zero", "/dev/null", tmpdir()])
      expect(() => torch.openSafetensors(path)).toThrowError(torchError("TORCH_IO"));
  });

  it("misaligned tensors are read all the same", () => {
    torch.scope(() => {
      const path = write(
        {
          a: { dtype: "U8", shape: [3], data_offsets: [0, 3] },
          b: { dtype: "F32", shape: [2], data_offsets: [3, 11] },
        },
        11,
      );
      using file = torch.openSafetensors(path);
      const bits = new Float32Array(Uint8Array.of(1, 1, 1, 1, 1, 1, 1, 1).buffer);
      expect(file.get("b").toTypedArray()).toEqual(bits);
      expect(file.get("a").tolist()).toEqual([1, 1, 1]);
    });
  });
});

describe("broken files are TORCH_FORMAT", () => {
  it("every truncation of a whole one", () => {
    torch.scope(() => {
      const whole = readFileSync(golden);
      const path = fresh();
      writeFileSync(path, whole);
      const fd = openSync(path, "r+");
      const wrong: unknown[] = [];
      const left = leftBehind(() => {
        for (let length = whole.length - 1; length >= 0; length--) {
          ftruncateSync(fd, length);
          const error = thrownBy(() => open(path)) as torch.TorchError;
          if (error.code !== "TORCH_FORMAT" || !error.message.includes("is not a valid safetensors file"))
            wrong.push([length, error]);
        }
      });
      closeSync(fd);
      expect(wrong).toEqual([]);
      expect(left).toBe(0);
    });
  });

  it("bytes too many", () => {
    const path = fresh();
    writeFileSync(path, Buffer.concat([readFileSync(golden), Buffer.alloc(1)]));
    expect(() => open(path)).toThrowError(torchError("TORCH_FORMAT", /1 bytes that its header does not describe/));
  });

  const entry = (dtype: unknown, shape: unknown, offsets: unknown) => ({ dtype, shape, data_offsets: offsets });
  it.each<[string, string | Buffer | object, number, RegExp]>([
    ["no JSON", "{", 0, /not valid JSON/],
    ["nothing", "", 0, /not valid JSON/],
    ["a list", "[]", 0, /not a JSON object/],
    ["null", "null", 0, /not a JSON object/],
    ["a number", "7", 0, /not a JSON object/],
    ["no UTF-8", Buffer.from([0x7b, 0xff, 0x7d]), 0, /not valid JSON/],
    ["an entry that is no object", { a: 5 }, 0, /tensor "a"/],
    ["an entry without a shape", { a: { dtype: "F32", data_offsets: [0, 4] } }, 4, /shape/],
    ["an unknown dtype", { a: entry("F31", [1], [0, 4]) }, 4, /unknown dtype F31/],
    ["a dtype that is no string", { a: entry(5, [1], [0, 4]) }, 4, /dtype/],
    ["a negative size", { a: entry("F32", [-1], [0, 4]) }, 4, /shape/],
    ["a fractional size", { a: entry("F32", [0.5], [0, 2]) }, 2, /shape/],
    ["a size that is no number", { a: entry("F32", ["1"], [0, 4]) }, 4, /shape/],
    ["a huge size", { a: entry("F32", [2 ** 50], [0, 4]) }, 4, /span 4/],
    ["sizes whose product overflows", { a: entry("F32", [2 ** 53 - 1, 2 ** 53 - 1], [0, 4]) }, 4, /span 4/],
    ["offsets that go backwards", { a: entry("F32", [1], [4, 0]) }, 4, /span -4/],
    ["negative offsets", { a: entry("F32", [1], [-4, 0]) }, 4, /data_offsets/],
    ["one offset", { a: entry("F32", [1], [0]) }, 4, /data_offsets/],
    ["three offsets", { a: entry("F32", [1], [0, 4, 8]) }, 4, /data_offsets/],
    ["offsets past the end", { a: entry("F32", [2], [0, 8]) }, 4, /truncated/],
    ["a huge offset", { a: entry("U8", [1], [2 ** 52, 2 ** 52 + 1]) }, 1, /starts at byte/],
    [
      "bytes that do not fit the shape",
      { a: entry("F32", [1], [0, 8]) },
      8,
      /needs 4 bytes, but its data_offsets span 8/,
    ],
    ["a hole", { a: entry("U8", [1], [0, 1]), b: entry("U8", [1], [2, 3]) }, 3, /"b" starts at byte/],
    ["a hole at the start", { a: entry("U8", [1], [1, 2]) }, 2, /"a" starts at byte/],
    ["an overlap", { a: entry("U8", [2], [0, 2]), b: entry("U8", [2], [1, 3]) }, 3, /"b" starts at byte/],
    ["the same bytes twice", { a: entry("U8", [2], [0, 2]), b: entry("U8", [2], [0, 2]) }, 2, /starts at byte/],
    ["metadata that is no map", { __metadata__: 5 }, 0, /__metadata__/],
    ["metadata with a number", { __metadata__: { a: 1 } }, 0, /__metadata__/],
    ["65 dimensions", { a: entry("U8", new Array(65).fill(1), [0, 1]) }, 1, /65 dimensions/],
    ["5000 dimensions", { a: entry("U8", new Array(5000).fill(1), [0, 1]) }, 1, /5000 dimensions/],
    ["lists that nest deep", `{"a":${"[".repeat(5_000_000)}`, 0, /nests deeper/],
    ["a string of 16 MB", `{"${"x".repeat(16_000_000)}":5}`, 0, /is not an object/],
    ["a string of escapes, without an end", `{"${"\\\\".repeat(4_000_000)}`, 0, /not valid JSON/],
    [
      "a name twice",
      '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
      1,
      /1 names appear more than once/,
    ],
    [
      "a name twice, once escaped",
      '{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\\u0061":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
      0,
      /more than once/,
    ],
  ])("%s", (_, header, data, message) => {
    const path = write(header, data);
    expect(leftBehind(() => expect(() => open(path)).toThrowError(torchError("TORCH_FORMAT", message)))).toBe(0);
  });

  it("lengths that lie", () => {
    for (const length of [1n, 3n, 10n ** 8n, 10n ** 8n + 1n, 2n ** 32n, 2n ** 63n, 2n ** 64n - 1n])
      expect(() => open(write("{}", 0, length)), String(length)).toThrowError(torchError("TORCH_FORMAT"));
  });

  it("names and metadata may hold braces, colons and quotes", () => {
    torch.scope(() => {
      const path = fresh();
      const names = ['a":{', "}", "[", ":", '\\"', "\\", "a:b", "{}"];
      torch.saveSafetensors(path, Object.fromEntries(names.map((name, i) => [name, torch.tensor(i)])), {
        '":{': '}:"',
      });
      using file = torch.openSafetensors(path);
      expect(file.keys().sort()).toEqual(names.sort());
    });
  });

  it("any bytes flipped: refused, or read as what they then say, never a crash", () => {
    const whole = readFileSync(golden);
    const headerEnd = 8 + Number(whole.readBigUInt64LE());
    const path = fresh();
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(headerEnd - 1), fc.integer({ min: 1, max: 255 })), { minLength: 1, maxLength: 4 }),
        (flips) => {
          const bytes = Buffer.from(whole);
          for (const [at, bits] of flips) bytes[at] ^= bits;
          writeFileSync(path, bytes);
          torch.scope(() => {
            try {
              using file = torch.openSafetensors(path);
              for (const name of file.keys()) file.get(name).toTypedArray();
            } catch (error) {
              expect(error).toEqual(torchError("TORCH_FORMAT"));
            }
          });
        },
      ),
      { numRuns: 400 },
    );
  });

  it("what cannot be opened is TORCH_IO", () => {
    expect(() => open(join(folder, "none"))).toThrowError(
      torchError("TORCH_IO", /none: the file does not exist/, "openSafetensors"),
    );
    expect(() => open(folder)).toThrowError(torchError("TORCH_IO", /expected a regular file/));
    expect(() => open("/dev/null")).toThrowError(torchError("TORCH_IO", /expected a regular file/));
    expect(() => open(fileURLToPath(import.meta.url))).toThrowError(torchError("TORCH_FORMAT"));
    using file = torch.openSafetensors(golden);
    expect(() => file.get("none")).toThrowError(torchError("TORCH_FORMAT", /has no tensor "none"/));
  });
});

describe("saving", () => {
  it("refuses what the format cannot hold", () => {
    torch.scope(() => {
      const path = fresh();
      const x = torch.ones([1]);
      expect(() => torch.saveSafetensors(path, { x: x.to("complex64") })).toThrowError(
        torchError("TORCH_TYPE", /x: the format does not support dtype complex64/),
      );
      expect(() => torch.saveSafetensors(path, { __metadata__: x })).toThrowError(
        torchError("TORCH_VALUE", /__metadata__/),
      );
      expect(() => torch.saveSafetensors(path, { x }, { n: 5 as unknown as string })).toThrowError(
        torchError("TORCH_VALUE", /map of strings/),
      );
      const gone = torch.ones([1]);
      gone.dispose();
      expect(() => torch.saveSafetensors(path, { gone })).toThrowError(torchError("TORCH_DISPOSED"));
      expect(existsSync(path)).toBe(false);
    });
  });

  it("keeps the old file when it fails", () => {
    torch.scope(() => {
      const path = fresh();
      torch.saveSafetensors(path, { x: torch.ones([2]) });
      const before = readFileSync(path);
      // The format has no such dtype on this device: the header is built, the bytes fail.
      expect(() =>
        torch.saveSafetensors(path, { x: torch.ones([2]), y: torch.empty([2], { device: "meta" }) }),
      ).toThrowError(torchError("TORCH_NOT_IMPLEMENTED"));
      expect(readFileSync(path).equals(before)).toBe(true);
      expect(() => torch.saveSafetensors(join(folder, "no", "folder"), {})).toThrowError(
        torchError("TORCH_IO", /no such file or directory/),
      );
      expect(readdirSync(folder).filter((name) => name.endsWith(".tmp"))).toEqual([]);
      const error = thrownBy(() => torch.saveSafetensors(folder, { x: torch.ones([1]) })) as Error;
      expect(error).toEqual(torchError("TORCH_IO", /saveSafetensors: /));
      expect(error.cause).toBeInstanceOf(Error);
      expect(statSync(folder).isDirectory()).toBe(true);
    });
  });

  it.runIf(process.platform === "linux")("keeps the old file when the disk is full", async () => {
    const path = join(folder, "full.safetensors");
    torch.scope(() => torch.saveSafetensors(path, { x: torch.ones([4]) }));
    const before = readFileSync(path);
    // A limit on the size of files stands in for the disk: writes beyond 64 KB fail.
    const { status, output } = await runChild(
      "full-disk.ts",
      [path],
      ["bash", "-c", `trap '' XFSZ; ulimit -f 64; exec "$@"`, "bash"],
    );
    expect(status, output).toBe(0);
    expect(output).toMatch(/TORCH_IO saveSafetensors: .*full\.safetensors: EFBIG/);
    expect(readFileSync(path).equals(before)).toBe(true);
    expect(readdirSync(folder).filter((name) => name.endsWith(".tmp"))).toEqual([]);
  });
});
