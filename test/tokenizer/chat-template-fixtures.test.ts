import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { type ChatMessage, ChatTemplate, TokenizerError } from "../../lib/tokenizer/index.js";
import { parseJson } from "../../lib/tokenizer/jinja/convert.js";
import { JinjaTemplate } from "../../lib/tokenizer/jinja/template.js";

// What transformers 5.24 renders, recorded by scripts/fixtures/chat_templates.py.

const projectRoot = join(import.meta.dirname, "..", "..");
const fixtures = join(projectRoot, "test", "fixtures", "chat-templates");
const shared = join(projectRoot, "..", "shared", "cases", "interop", "templates");
const NOW = new Date(2025, 0, 5, 9, 7, 3, 42);
const TOKENS = { bos_token: "<s>", eos_token: "</s>", pad_token: "<pad>", unk_token: "<unk>" };
const NO_MORE_THAN = 20;

interface Outcome {
  text?: string;
  error?: string;
}

/** Floats and long ints, which JSON.parse would lose, as the fixtures write them. */
function decode(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(decode);
  if (typeof value !== "object" || value === null) return value;
  if ("$float" in value) return Object(Number(value.$float));
  if ("$int" in value) return BigInt(String(value.$int));
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, decode(item)]));
}

function read<T>(name: string): T {
  return decode(JSON.parse(readFileSync(join(fixtures, name), "utf8"))) as T;
}

/** The text, the error's code, or the marker for what is left out. */
function outcomeOf(work: () => string): Outcome & { unsupported?: string } {
  try {
    return { text: work() };
  } catch (error) {
    if (!(error instanceof TokenizerError)) throw error;
    return error.code === "CHAT_TEMPLATE_UNSUPPORTED" ? { unsupported: error.message } : { error: error.message };
  }
}

/** Counts what is equal, and lists what differs. Being left out by name is no difference, being wrong is. */
class Tally {
  same = 0;
  unsupported: string[] = [];
  different: string[] = [];

  add(name: string, want: Outcome, got: ReturnType<typeof outcomeOf>): void {
    if (got.unsupported !== undefined) this.unsupported.push(`${name}: ${got.unsupported}`);
    else if (want.text === got.text && (want.error === undefined) === (got.error === undefined)) this.same++;
    else this.different.push(`${name}\n  want ${JSON.stringify(want)}\n  got  ${JSON.stringify(got)}`);
  }
}

describe("chat templates as transformers renders them", () => {
  it("every feature of Jinja has the same text or is an error in both", () => {
    const { variables, messages, cases } = read<{
      variables: Record<string, unknown>;
      messages: ChatMessage[];
      cases: ({ template: string } & Outcome)[];
    }>("features.json");
    const tally = new Tally();
    for (const { template, ...want } of cases) {
      const render = () => new ChatTemplate(template, TOKENS).render(messages, { variables, now: NOW });
      tally.add(template, want, outcomeOf(render));
    }
    expect(tally.different).toEqual([]);
    expect(tally.unsupported.length).toBeLessThanOrEqual(NO_MORE_THAN);
    expect(tally.same).toBeGreaterThan(250);
  });

  it("public templates write every conversation alike, generation blocks included", () => {
    const { templates, conversations, cases } = read<{
      templates: Record<string, string>;
      conversations: Record<string, { messages: ChatMessage[]; [variable: string]: unknown }>;
      cases: ({ shape: string; conversation: string; prompt: boolean; spans?: string[] } & Outcome)[];
    }>("shapes.json");
    const tally = new Tally();
    const parsed = new Map(Object.entries(templates).map(([shape, text]) => [shape, new ChatTemplate(text, TOKENS)]));
    for (const { shape, conversation, prompt, spans, ...want } of cases) {
      const template = parsed.get(shape);
      if (!template) throw new Error(`no template ${shape}`);
      const { messages, tools, documents, ...variables } = conversations[conversation];
      const options = { tools, documents, variables, addGenerationPrompt: prompt, now: NOW } as object;
      tally.add(
        `${shape} ${conversation} ${prompt}`,
        want,
        outcomeOf(() => template.render(messages, options)),
      );
      if (spans) {
        const answers = template.segments(messages, options).filter((segment) => segment.isAnswer);
        expect(answers.map((segment) => segment.text)).toEqual(spans);
      }
    }
    expect(tally.different).toEqual([]);
    expect(tally.unsupported).toEqual([]);
    expect(tally.same).toBe(Object.keys(templates).length * Object.keys(conversations).length * 2);
  });

  it("random expressions have the same value or are errors in both", () => {
    const path = process.env.DIFFCODER_TEMPLATES ?? join(fixtures, "expressions.json");
    const { variables, cases } = decode(JSON.parse(readFileSync(path, "utf8"))) as {
      variables: Record<string, unknown>;
      cases: [expression: string, text: string | null, error: string | null][];
    };
    const tally = new Tally();
    for (const [expression, text, error] of cases) {
      const want: Outcome = error === null ? { text: text ?? "" } : { error };
      const render = () =>
        new ChatTemplate(`{{ ${expression} }}`, TOKENS).render([{ role: "user", content: "q" }], { variables });
      tally.add(expression, want, outcomeOf(render));
    }
    expect(tally.different).toEqual([]);
    expect(tally.unsupported.length).toBeLessThan(cases.length / 20);
  });

  it.skipIf(!existsSync(shared))("the shared cases have the right value", () => {
    for (const name of readdirSync(shared)) {
      const { template, messages, python } = parseJson(readFileSync(join(shared, name), "utf8")) as {
        template: string;
        messages: ChatMessage[];
        python: Outcome;
      };
      const got = outcomeOf(() => new ChatTemplate(template).render(messages));
      if (python.error === undefined) expect({ name, ...got }).toEqual({ name, text: python.text });
      else expect(got.error).toContain(python.error);
    }
  });
});

describe("JinjaTemplate", () => {
  it("keeps an int and a float apart where JSON's text is read by parseJson", () => {
    const value = parseJson('{"a": 1.0, "b": 1, "c": 1e2, "d": 12345678901234567890, "e": [-0.0, 2.50], "f": "1.0"}');
    const text = "{{ v.a }} {{ v.b }} {{ v.c }} {{ v.d }} {{ v.e }} {{ v | tojson }}";
    expect(new JinjaTemplate(text).render({ v: value }, () => NOW).text).toBe(
      '1.0 1 100.0 12345678901234567890 [-0.0, 2.5] {"a": 1.0, "b": 1, "c": 100.0, "d": 12345678901234567890, "e": [-0.0, 2.5], "f": "1.0"}',
    );
  });
});
