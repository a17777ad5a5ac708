import { cpSync, existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { parseSftRecord, SftDataset, type SftOptions } from "../../lib/data/index.js";
import { Tokenizer } from "../../lib/tokenizer/tokenizer.js";
import { temporaryFolder, thrownBy } from "./helpers.js";

const fixtures = join(import.meta.dirname, "../fixtures");
const cases = join(import.meta.dirname, "../../../shared/cases/interop");

/** The tokenizer of a fixture with another template; undefined: with none. */
function withTemplate(template: string | undefined, name = "qwen"): Tokenizer {
  const folder = temporaryFolder();
  cpSync(join(fixtures, "tokenizer", name), folder, { recursive: true });
  const path = join(folder, "tokenizer_config.json");
  const config = JSON.parse(readFileSync(path, "utf8"));
  delete config.chat_template;
  rmSync(path);
  writeFileSync(path, JSON.stringify({ ...config, ...(template !== undefined && { chat_template: template }) }));
  return Tokenizer.fromPretrained(folder);
}

const CHATML =
  "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}" +
  "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
const chatml = withTemplate(CHATML);

const make = (value: unknown, options: Partial<SftOptions> = {}) =>
  new SftDataset([{ name: "test#1", value }], { tokenizer: chatml, seqLen: 512, eos: [1, 1], ...options });

/** A record's text with its answers in brackets, padding left out. */
function shown(dataset: SftDataset, tokenizer: Tokenizer = chatml): string[] {
  return Array.from({ length: dataset.numSamples }, (_, row) => dataset.sample(row)).flatMap(
    ({ tokens, lossMask, starts = [0] }) =>
      starts.flatMap((start, i) => {
        const end = starts[i + 1] ?? tokens.length;
        if (tokens[start] === tokenizer.padId) return [];
        const parts: { answer: boolean; ids: number[] }[] = [];
        for (let at = start; at < end; at++) {
          const answer = lossMask?.[at] === 1;
          if (parts.at(-1)?.answer !== answer) parts.push({ answer, ids: [] });
          parts.at(-1)?.ids.push(tokens[at]);
        }
        return parts
          .map((part) => (part.answer ? `[${tokenizer.decode(part.ids)}]` : tokenizer.decode(part.ids)))
          .join("");
      }),
  );
}
const one = (value: unknown, options: Partial<SftOptions> = {}) => shown(make(value, options), options.tokenizer)[0];
const say = (role: string, content: unknown, rest: object = {}) => ({ role, content, ...rest });
const user = (text: string) => `<|im_start|>user\n${text}<|im_end|>\n`;
const asked = (text: string) => `${user(text)}<|im_start|>assistant\n`;

describe("conversations as transformers tokenizes them", () => {
  const golden = JSON.parse(readFileSync(join(fixtures, "sft/chat.json"), "utf8"));
  const tokenizers = new Map<string, Tokenizer>();

  interface Case {
    template: string;
    record: { messages: unknown[] };
    ids: number[];
    mask: number[];
    text: string;
  }

  it.each((golden.cases as Case[]).map((each, i) => [i, each] as const))("case %i", (_i, each) => {
    const { template, record, ids, mask, text } = each;
    const tokenizer = tokenizers.get(template) ?? withTemplate(template);
    tokenizers.set(template, tokenizer);
    const dataset = make(record, { tokenizer, eos: [0, 0] });
    const { tokens, lossMask } = dataset.sample(0);
    expect(dataset.summary.unread).toEqual({});
    const endsInEos = ids[ids.length - 1] === tokenizer.eosId; // eos: [0, 0] takes it away
    const kept = endsInEos ? ids.length - 1 : ids.length;
    expect(tokenizer.decode(tokens.slice(0, kept))).toBe(text.slice(0, endsInEos ? -"<|im_end|>".length : undefined));
    expect([...tokens.slice(0, kept)]).toEqual(ids.slice(0, kept));
    expect([...(lossMask ?? []).slice(0, kept)]).toEqual(mask.slice(0, kept));
  });
});

describe("what an answer is", () => {
  it("ends with the token that ends the turn; the template's newline behind it is not learned", () => {
    const messages = [say("user", "q"), say("assistant", "a\n"), say("user", "r"), say("assistant", "b")];
    expect(one({ messages })).toBe(`${asked("q")}[a\n<|im_end|>]\n${asked("r")}[b<|im_end|>]\n`);
    // Other eos are counted from the template's.
    expect(one({ messages: messages.slice(0, 2) }, { eos: [3, 3] })).toBe(
      `${asked("q")}[a\n<|im_end|>]\n[<|im_end|><|im_end|>]`,
    );
  });

  it("is none where weight or train say so, and in a prompt", () => {
    const turns = [
      say("user", "q"),
      say("assistant", "a", { weight: 0 }),
      say("user", "r"),
      say("assistant", "b", { weight: 1 }),
    ];
    const plain = `${user("q")}<|im_start|>assistant\na<|im_end|>\n${asked("r")}[b<|im_end|>]\n`;
    expect(one({ messages: turns })).toBe(plain);
    const prompt = [say("user", "q"), say("assistant", "a"), say("user", "r")];
    expect(one({ prompt, completion: [say("assistant", "b")] })).toBe(plain);
    expect(thrownBy(() => make({ messages: [say("assistant", "a", { weight: 0.5 })] }))).toMatch(
      /weight: expected 0 or 1/,
    );
  });

  it("is one sample each where the template drops old reasoning", () => {
    const template =
      "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning and loop.last %}({{ m.reasoning }}){% endif %}" +
      "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    const tokenizer = withTemplate(template);
    const messages = [
      say("user", "q"),
      say("assistant", "a", { reasoning: "w" }),
      say("user", "r"),
      say("assistant", "b"),
    ];
    const dataset = make({ messages }, { tokenizer, packing: "sequential" });
    expect(shown(dataset, tokenizer)).toEqual([
      `${asked("q")}[(w)a<|im_end|>]\n`,
      `${user("q")}<|im_start|>assistant\na<|im_end|>\n${asked("r")}[b<|im_end|>]\n`,
    ]);
    expect(dataset.summary).toMatchObject({ records: 1, samples: 2 });
  });

  it("begins with a token of its own, as when it is generated: none reaches over the end of the prompt", () => {
    const template =
      "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}" +
      "{% if add_generation_prompt %}assistant: {% endif %}";
    const tokenizer = withTemplate(template);
    const messages = [say("user", "q"), say("assistant", "def f(x):")];
    const prompt = tokenizer.encode("user: q\nassistant: ", { addSpecialTokens: false });
    const { tokens, lossMask } = make({ messages }, { tokenizer }).sample(0);
    expect([...tokens.slice(0, prompt.length)]).toEqual(prompt);
    expect(lossMask?.indexOf(1)).toBe(prompt.length);
    expect(tokenizer.encode("user: q\nassistant: def f(x):\n").slice(0, prompt.length)).not.toEqual(prompt);
  });

  it("has the ids of the whole text where each piece would begin with a space of its own", () => {
    const tokenizer = withTemplate("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", "llama2");
    const messages = [say("user", "one two"), say("assistant", "three four")];
    const { tokens } = make({ messages }, { tokenizer, eos: [0, 0] }).sample(0);
    const ids = tokenizer.encode("user: one two\nassistant: three four\n", { addSpecialTokens: false });
    expect([...tokens.slice(0, ids.length)]).toEqual(ids);
    const pair = make({ prompt: "one two", answer: " three" }, { tokenizer, eos: [0, 0] }).sample(0).tokens;
    const both = tokenizer.encode("one two three");
    expect([...pair.slice(0, both.length)]).toEqual(both);
  });
});

describe("forms of records", () => {
  it.each([
    ["messages", { messages: [say("user", "q"), say("assistant", "a")] }],
    ["messages with parts of text", { messages: [say("user", [{ type: "text", text: "q" }]), say("assistant", "a")] }],
    [
      "ShareGPT",
      {
        conversations: [
          { from: "human", value: "q" },
          { from: "gpt", value: "a" },
        ],
      },
    ],
    ["conversations with roles", { conversations: [say("user", "q"), say("assistant", "a")] }],
    ["TRL's conversational prompt and completion", { prompt: [say("user", "q")], completion: [say("assistant", "a")] }],
    ["a conversational prompt and a text", { prompt: [say("user", "q")], completion: "a" }],
    ["Alpaca", { instruction: "q", input: "", output: "a" }],
    ["instruction and response", { instruction: "q", response: "a" }],
    ["question and answer", { question: "q", answer: "a" }],
  ])("%s", (_name, record) => {
    expect(one(record)).toBe(`${asked("q")}[a<|im_end|>]\n`);
  });

  it("a prompt and its answer are used as they are", () => {
    for (const key of ["answer", "completion", "response", "output"]) {
      expect(one({ prompt: "def f(x):", [key]: " return x" })).toBe("def f(x):[ return x<|im_end|>]");
    }
  });

  it("Alpaca's input, system and history are in the prompt", () => {
    const record = { instruction: "Add the numbers", input: "1 2", output: "3", history: [["h", "i"]], system: "s" };
    expect(one(record)).toBe(
      `<|im_start|>system\ns<|im_end|>\n${asked("h")}[i<|im_end|>]\n${asked("Add the numbers\n1 2")}[3<|im_end|>]\n`,
    );
  });

  it("Alpaca's prompt is Stanford's where there is no template", () => {
    const tokenizer = withTemplate(undefined);
    const text = (given: string, kind: string) =>
      `Below is an instruction that describes a task${kind}. Write a response that appropriately completes the request.` +
      `\n\n### Instruction:\nq\n\n${given}### Response:[a<|im_end|>]`;
    expect(one({ instruction: "q", output: "a" }, { tokenizer })).toBe(text("", ""));
    const kind = ", paired with an input that provides further context";
    expect(one({ instruction: "q", input: "i", output: "a" }, { tokenizer })).toBe(text("### Input:\ni\n\n", kind));
  });

  it("ShareGPT's speakers and calls", () => {
    const { record } = parseSftRecord({
      system: "s",
      tools: '[{"name": "f"}]',
      conversations: [
        { from: "human", value: "q" },
        { from: "function_call", value: '{"name": "f", "arguments": {"x": 1}}' },
        { from: "observation", value: "1" },
        { from: "gpt", value: "a" },
      ],
    });
    expect(record).toEqual({
      messages: [
        say("system", "s"),
        say("user", "q"),
        say("assistant", "", { tool_calls: [{ type: "function", function: { name: "f", arguments: { x: 1 } } }] }),
        say("tool", "1"),
        say("assistant", "a"),
      ],
      answers: [false, false, true, false, true],
      render: { tools: [{ name: "f" }] },
    });
  });

  it("keeps the difference between 1.0 and 1, in files and in texts of JSON", async () => {
    const template =
      "{{ tools | tojson }}{% for m in messages %}{{ m.role }}{{ m.content }}{{ (m.tool_calls or []) | tojson }};{% endfor %}";
    const tokenizer = withTemplate(template);
    const file = join(temporaryFolder(), "numbers.jsonl");
    const call = `"{\\"name\\": \\"f\\", \\"arguments\\": {\\"x\\": 2.0}}"`;
    const turns = `[{"from": "human", "value": "q"}, {"from": "function_call", "value": ${call}, "weight": 1.0}]`;
    writeFileSync(file, `{"tools": [{"min": 1.0, "n": 1, "s": "3.0"}], "conversations": ${turns}}\n`);
    const dataset = await SftDataset.load([file], { tokenizer, seqLen: 512, eos: [1, 1], packing: "sequential" });
    const text = shown(dataset, tokenizer)[0];
    expect(text).toContain('[{"min": 1.0, "n": 1, "s": "3.0"}]userq[];');
    expect(text).toContain('"arguments": {"x": 2.0}');
  });

  it("keeps null content where tools are called, as the template finds it", () => {
    const calls = [{ type: "function", function: { name: "f", arguments: { x: 1 } } }];
    const { record } = parseSftRecord({ messages: [say("user", "q"), say("assistant", null, { tool_calls: calls })] });
    expect(record).toMatchObject({ messages: [{}, say("assistant", null, { tool_calls: calls })] });
    expect(() => parseSftRecord({ messages: [say("user", "q"), say("assistant", null)] })).toThrow(
      /messages\[1\]\.content/,
    );
  });
});

describe("no field is lost in silence", () => {
  const messages = [say("user", "q", { name: "n" }), say("assistant", "a", { reasoning_content: "r" })];

  it("counts the fields that are in no sample", () => {
    const { summary } = make({ messages, id: 7, source: "s", empty: [], tools: [{ name: "f" }] });
    expect(summary.unread).toEqual({ id: 1, source: 1, tools: 1, "messages.name": 1, "messages.reasoning_content": 1 });
  });

  it.each([
    [/a preference \(chosen, rejected\)/, { prompt: "p", chosen: "a", rejected: "b" }],
    [/an unpaired preference/, { prompt: "p", completion: "a", label: true }],
    [/several completions with labels/, { prompt: "p", completions: ["a"], labels: [true] }],
    [/input would be lost.*its fields: prompt, input, output/, { prompt: "p", input: "i", output: "o" }],
    [/images would be lost/, { messages, images: ["x.png"] }],
    [/system would be lost/, { prompt: "p", answer: "a", system: "s" }],
    [/context would be lost/, { question: "q", context: "c", answer: "a" }],
    [/can be read as messages, and prompt/, { messages, prompt: "p", completion: "c" }],
    [/can be read as instruction, and prompt/, { instruction: "i", output: "o", prompt: "### Instruction: i" }],
    [/both a system message and a field 'system'/, { messages: [say("system", "s"), ...messages], system: "t" }],
  ])("refuses %s", (message, record) => {
    const thrown = thrownBy(() => make(record));
    expect(thrown).toMatch(/^DATA_FORMAT test#1: /);
    expect(thrown).toMatch(message);
  });

  it("leaves out what it is told to", () => {
    const record = { instruction: "q", output: "a", prompt: "### Instruction: q" };
    expect(one(record, { ignore: ["prompt"] })).toBe(`${asked("q")}[a<|im_end|>]\n`);
  });

  it.each([
    [/neither messages nor.*its fields: prompt$/, { prompt: "p" }],
    [/text without a prompt is for a corpus/, { text: "t" }],
    [/messages\[0\]\.role/, { messages: [{ content: "x" }] }],
    [/messages\[0\]\.content\[0\]: its type is 'image_url'/, { messages: [say("user", [{ type: "image_url" }])] }],
    [/conversations\[0\]\.from is 'alien'/, { conversations: [{ from: "alien", value: "x" }] }],
    [/conversations\[0\]\.value: expected a function call/, { conversations: [{ from: "function_call", value: "x" }] }],
    [/history\[0\]: expected \[prompt, answer\]/, { instruction: "i", output: "o", history: ["x"] }],
    [/tools: expected a list/, { messages, tools: "{" }],
    [/not a JSON object/, [1]],
  ])("skips %s", (message, record) => {
    const thrown = thrownBy(() => make(record));
    expect(thrown).toMatch(/^DATA_EMPTY no sample to train on in 1 records: 1 bad record/);
    expect(thrown.replace(/\)$/, "")).toMatch(message);
  });
});

describe.skipIf(!existsSync(cases))("the cases that failed before (skipped where they are not)", () => {
  const load = async (file: string, model: string) => {
    const tokenizer = Tokenizer.fromPretrained(join(cases, "models", model));
    return shown(
      await SftDataset.load([join(cases, "sft", file)], { tokenizer, seqLen: 512, eos: [1, 1], packing: "sequential" }),
      tokenizer,
    ).map((text) => text.replaceAll(/[[\]]/g, ""));
  };

  it("writes them as transformers does", async () => {
    expect(await load("tools.jsonl", "toolstmpl")).toEqual(["<tools:1>user:q;assistant:a;<|eos|>"]);
    expect(await load("parts.jsonl", "toolstmpl")).toEqual(Array(2).fill("user:q;assistant:a;<|eos|>"));
    expect(await load("alpaca.jsonl", "toolstmpl")).toEqual(["user:Add the numbers\n1 2;assistant:3;<|eos|>"]);
    expect(await load("bom.jsonl", "toolstmpl")).toEqual(["ab<|eos|>", "cd<|eos|>"]);
    expect(await load("indent.jsonl", "toolstmpl")).toEqual([
      "user:Complete the body.;assistant:    return x\n;<|eos|>",
    ]);
    expect((await load("nullc.jsonl", "toolstmpl")).at(-1)).toBe("user:q;assistant:a;<|eos|>");
  });
});
