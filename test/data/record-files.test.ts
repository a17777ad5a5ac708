import { execFileSync } from "node:child_process";
import {
  appendFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Corpus, prepareData, readSftRecords, SftDataset } from "../../lib/data/index.js";
import { jsonItems } from "../../lib/data/json-items.js";
import { recordItems } from "../../lib/data/record-files.js";
import { rejectionOf, temporaryFolder, tokenizer, writeTree } from "./helpers.js";

const containers = join(import.meta.dirname, "../fixtures/sft/containers");
const root = temporaryFolder();

const valuesOf = async (path: string): Promise<unknown[]> => {
  const values: unknown[] = [];
  for await (const { value } of recordItems(path)) values.push(value);
  return values;
};
const refusal = (name: string, content: string | Uint8Array) => {
  writeFileSync(join(root, name), content);
  return rejectionOf(valuesOf(join(root, name)));
};

describe("files of records", () => {
  const expected = JSON.parse(readFileSync(join(containers, "records.json"), "utf8"));
  const names = readdirSync(containers).filter((name) => name !== "records.json");

  it.each(names)("%s holds what Python wrote", async (name) => {
    expect(await valuesOf(join(containers, name))).toEqual(expected);
  });

  it("are all found in a folder, and named by their place", async () => {
    const records: string[] = [];
    for await (const { name } of readSftRecords([containers])) records.push(name);
    expect(records).toHaveLength(expected.length * (names.length + 1));
    expect(records).toContain("lines.jsonl.zst#40");
    expect(records).toContain("snappy.parquet#17");
    const dataset = await SftDataset.load([containers], { tokenizer, seqLen: 64 });
    expect(dataset.summary).toMatchObject({ skipped: {}, unread: { id: dataset.summary.records } });
  });

  it("count in a folder of a corpus, and have a text column by name", async () => {
    const lines = Array.from({ length: 30 }, (_, i) => ({ body: `text number ${i}`, id: i }));
    const folder = writeTree(temporaryFolder(), {
      "a.jsonl.gz": gzipSync(lines.map((line) => JSON.stringify(line)).join("\n")),
      "b.json": JSON.stringify(lines.slice(0, 3)),
      "c.py": "x = 1\n",
    });
    const cache = temporaryFolder();
    const { summary } = await prepareData({ paths: [folder], textFields: ["body"], seqLen: 8, cache }, tokenizer);
    expect(summary).toMatchObject({ documents: 31, otherFiles: 1 });
    const named = new Corpus({ sources: [{ path: join(folder, "b.json") }], textFields: ["body"] });
    const texts: string[] = [];
    for await (const { text } of named.documents()) texts.push(text);
    expect(texts).toEqual(["text number 0", "text number 1", "text number 2"]);
  });
});

describe("text in pieces of any length", () => {
  const json = fc.array(fc.jsonValue({ maxDepth: 3 }), { maxLength: 8 });
  const read = async (text: string, size: number, path: string) => {
    const bytes = Buffer.from(text);
    const chunks = Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) =>
      bytes.subarray(i * size, (i + 1) * size),
    );
    async function* stream() {
      yield* chunks;
    }
    const values: unknown[] = [];
    for await (const { value } of jsonItems(stream(), path)) values.push(value);
    return values;
  };

  it("gives the values of JSON.parse", async () => {
    await fc.assert(
      fc.asyncProperty(json, fc.integer({ min: 1, max: 40 }), fc.boolean(), async (values, size, pretty) => {
        const list = JSON.stringify(values, undefined, pretty ? 2 : undefined);
        expect(await read(list, Math.max(size, 3), "x.json")).toEqual(JSON.parse(list));
        const lines = values.map((value) => JSON.stringify({ value }));
        expect(await read(lines.join("\r\n"), Math.max(size, 3), "x.jsonl")).toEqual(
          lines.map((line) => JSON.parse(line)),
        );
      }),
    );
  });

  it("says where a list is torn", async () => {
    for (const [text, message] of [
      ['[{"a":1},', /within element 2/],
      ['[{"a":1}', /the file ends after element 1|within element 1/],
      ["[1 2]", /element 1 of the list is not JSON/],
      ["[1],2", /more text after the list/],
      ['[{"a":1},,{"a":2}]', /element 2 of the list is not JSON/],
      ['["a" "b"]', /not JSON/],
    ] as const) {
      await expect(read(text, 5, "x.json")).rejects.toThrow(message);
    }
    expect(await read('{\n  "a": [\n1]\n}\n', 5, "x.json")).toEqual([{ a: [1] }]);
    expect(await read("\n\n", 5, "x.json")).toEqual([]);
  });
});

describe("other formats are named", () => {
  it.each([
    ["a.csv", 'prompt,"the answer",n\n1,2,3\n', /is a CSV table with the columns prompt, the answer, n;/],
    ["a.tsv", "prompt\tanswer\n", /is a TSV table with the columns prompt, answer;/],
    ["a.csv.gz", gzipSync("p,q\n1,2\n"), /is a CSV table with the columns p, q;/],
    ["a.arrow", Buffer.from("ARROW1\0\0"), /is an Arrow file;/],
    ["a.xlsx", Buffer.from("PK\x03\x04\0\0"), /is a zip archive \(or a spreadsheet/],
    ["a.tar", Buffer.concat([Buffer.alloc(257), Buffer.from("ustar\0")]), /is a tar archive;/],
    ["b.tar.gz", gzipSync(Buffer.concat([Buffer.alloc(257), Buffer.from("ustar\0")])), /is a tar archive;/],
    ["a.db", Buffer.from("SQLite format 3\0"), /is a SQLite database;/],
    ["a.pkl", Buffer.from([0x80, 4, 0x95, 0, 0]), /is binary data;/],
    ["c.jsonl", Buffer.from("{}\0\0\0"), /is binary data;/],
  ])("%s", async (name, content, message) => {
    const thrown = await refusal(name, content);
    expect(thrown).toMatch(/^DATA_FORMAT /);
    expect(thrown).toMatch(message);
    const corpus = new Corpus({ sources: [{ path: join(root, name) }] });
    if (!/\.(pkl|jsonl)$/.test(name)) expect(await rejectionOf(corpus.documents().next())).toBe(thrown);
  });

  it("in a folder without records, too", async () => {
    const folder = writeTree(temporaryFolder(), { "a.csv": "a,b\n", "b.arrow": "ARROW1" });
    expect(await rejectionOf(readSftRecords([folder]).next())).toMatch(
      /^DATA_EMPTY no file of records found in .* \(its files end in \.csv \.arrow\)/,
    );
    expect(await rejectionOf(prepareData({ paths: [folder], seqLen: 8 }, tokenizer))).toMatch(
      /^DATA_EMPTY no text found in .*found others: 1 \.csv, 1 \.arrow/,
    );
  });
});

describe("hostile files", () => {
  it("pipes, devices, folders and loops of links are refused at once", async () => {
    execFileSync("mkfifo", [join(root, "pipe.jsonl")]);
    symlinkSync(join(root, "loop.jsonl"), join(root, "loop.jsonl"));
    for (const path of [join(root, "pipe.jsonl"), "/dev/zero"]) {
      expect(await rejectionOf(readSftRecords([path]).next())).toMatch(/^DATA_FILE .*expected a regular file/);
      expect(await rejectionOf(prepareData({ paths: [path], seqLen: 8 }, tokenizer))).toMatch(/^DATA_FILE /);
      expect(await rejectionOf(valuesOf(path))).toMatch(/^DATA_FILE .*expected a regular file/);
    }
    expect(await rejectionOf(readSftRecords([join(root, "loop.jsonl")]).next())).toMatch(/^DATA_NOT_FOUND .*ELOOP/);
    const folder = temporaryFolder();
    execFileSync("mkfifo", [join(folder, "a.jsonl")]);
    writeFileSync(join(folder, "b.jsonl"), '{"text":"a text"}\n');
    expect(await rejectionOf(readSftRecords([folder]).next())).toMatch(/^DATA_FILE cannot read a\.jsonl/);
    const corpus = new Corpus({ sources: [{ path: folder }] });
    for await (const _ of corpus.documents());
    expect(corpus.summary).toMatchObject({
      documents: 1,
      skipped: { unreadable: 1 },
      examples: { unreadable: ["a.jsonl"] },
    });
    mkdirSync(join(folder, "c.jsonl"));
    expect(await rejectionOf(valuesOf(join(folder, "c.jsonl")))).toMatch(/^DATA_FILE .*it is a folder/);
  });

  it("empty files and encodings", async () => {
    expect(
      await rejectionOf(
        SftDataset.load(
          [writeTree(root, { "e/empty.jsonl": "" })].map((r) => join(r, "e")),
          { tokenizer, seqLen: 8 },
        ),
      ),
    ).toMatch(/^DATA_EMPTY no sample to train on in 0 records/);
    const thrown = await refusal("utf16.jsonl", Buffer.from('\ufeff{"prompt":"a"}', "utf16le"));
    expect(thrown).toMatch(/^DATA_FILE .*UTF-16/);
    writeFileSync(join(root, "latin.jsonl"), Buffer.from('{"a":"na\u00efve"}\n{"a":1}\n', "latin1"));
    expect(await valuesOf(join(root, "latin.jsonl"))).toEqual([undefined, { a: 1 }]);
  });

  it("damaged and truncated compression", async () => {
    for (const name of ["lines.jsonl.gz", "lines.jsonl.zst", "plain.jsonl.zst", "frames.jsonl.zst"]) {
      const bytes = readFileSync(join(containers, name));
      for (let cut = 1; cut < bytes.length - 4; cut += 37) {
        const thrown = await refusal(`cut-${name}`, bytes.subarray(0, bytes.length - cut));
        if (name !== "frames.jsonl.zst") expect(thrown).toMatch(/^DATA_FILE .*(damaged|cut off)/);
        else if (thrown !== "nothing thrown") expect(thrown).toMatch(/^DATA_F/); // it may end between frames
      }
    }
    // Checksums: no flipped bit goes unseen.
    for (const name of ["lines.jsonl.gz", "lines.jsonl.zst"]) {
      const bytes = readFileSync(join(containers, name));
      for (let at = 20; at < bytes.length; at += 11) {
        const flipped = Buffer.from(bytes);
        flipped[at] ^= 1 << (at % 8);
        const thrown = await refusal(`flip-${name}`, flipped);
        expect(thrown, `${name} byte ${at}`).toMatch(/^DATA_F(ILE|ORMAT) /);
      }
    }
  });

  it("damaged Parquet files", async () => {
    const bytes = readFileSync(join(containers, "snappy.parquet"));
    for (let at = 0; at < bytes.length; at += 61) {
      const flipped = Buffer.from(bytes);
      flipped[at] ^= 0x55;
      const thrown = await refusal("flip.parquet", flipped);
      if (thrown !== "nothing thrown") expect(thrown).toMatch(/^DATA_F/);
      expect(await refusal("cut.parquet", bytes.subarray(0, Math.max(8, at)))).toMatch(/^DATA_FILE /);
    }
  });

  it("a decompression bomb ends early", async () => {
    for (const byte of ["\n", "a"]) {
      const bomb = gzipSync(Buffer.alloc(2 ** 26 + 2 ** 22, byte));
      expect(await refusal("bomb.jsonl.gz", bomb)).toMatch(/^DATA_FILE .*decompression bomb/);
    }
  });

  it("a record that fills memory is refused by its place", async () => {
    async function* stream(start: string) {
      yield Buffer.from(start);
      const chunk = Buffer.alloc(2 ** 22, "a");
      for (;;) yield chunk;
    }
    const read = async (start: string, path: string) => {
      for await (const _ of jsonItems(stream(start), path));
    };
    await expect(read('{"a":1}\n{"a":"', "x.jsonl")).rejects.toThrow("line 2 is longer than 128 MiB");
    await expect(read('[{"a":1},{"a":"', "x.json")).rejects.toThrow("element 2 of the list is longer than 128 MiB");
  });

  it("deep nesting is a bad record, not a full stack", async () => {
    const deep = `{"a":${"[".repeat(5_000_000)}`;
    writeFileSync(join(root, "deep.jsonl"), `${deep}\n{"a":1}\n`);
    expect(await valuesOf(join(root, "deep.jsonl"))).toEqual([undefined, { a: 1 }]);
    expect(await refusal("deep.json", "[".repeat(5_000_000))).toMatch(/^DATA_FILE .*within element 1 of the list/);
  });

  it("a file that changes while it is read", async () => {
    const path = join(root, "changing.jsonl");
    const line = `{"a":"${"x".repeat(1000)}"}\n`;
    for (const change of [() => truncateSync(path, 100), () => appendFileSync(path, line)]) {
      writeFileSync(path, line.repeat(5000));
      const reading = (async () => {
        let count = 0;
        for await (const _ of recordItems(path)) if (count++ === 1) change();
      })();
      expect(await rejectionOf(reading)).toMatch(/^DATA_FILE .*the file changed while it was read/);
    }
  });
});
