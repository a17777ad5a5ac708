import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { StableDiffCoder } from "../../lib/checkpoint/index.js";
import { ChatTemplate, Tokenizer, TokenizerError } from "../../lib/tokenizer/index.js";
import { LimitExceeded, PyError } from "../../lib/tokenizer/jinja/errors.js";
import { JinjaTemplate, RENDER_LIMITS } from "../../lib/tokenizer/jinja/template.js";

const root = mkdtempSync(join(tmpdir(), "chat-template-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const USER = [{ role: "user", content: "q" }];

function errorOf(work: () => unknown): TokenizerError {
  try {
    work();
  } catch (error) {
    if (error instanceof TokenizerError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}

/** The project's tokenizer with other chat templates. */
function folder(name: string, change: (dir: string) => void): string {
  const dir = join(root, name);
  mkdirSync(dir);
  cpSync(join(import.meta.dirname, "..", "..", "assets", "tokenizer"), dir, { recursive: true });
  writeFileSync(join(dir, "tokenizer_config.json"), JSON.stringify({ eos_token: "<[end▁of▁sentence]>" }));
  change(dir);
  return dir;
}

describe("hostile templates", () => {
  const limits: [template: string, limit: RegExp][] = [
    ["{% for i in range(10**9) %}x{% endfor %}", /Range too big/],
    ["{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", /too many steps/],
    [
      "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}",
      /too many steps|too large/,
    ],
    ["{{ 'a' * 10**9 }}", /too long/],
    ["{{ messages[0].content * 10**12 }}", /too long/],
    ["{{ [0] * 10**9 }}", /too long/],
    [
      "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
      /too/,
    ],
    ["{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = ns.l + ns.l %}{% endfor %}", /too/],
    [
      "{% set ns = namespace(l=[1]) %}{% for i in range(64) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
      /too|nested/,
    ],
    [
      "{% set ns = namespace(l=[1]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
      /nested/,
    ],
    [
      "{% set ns = namespace(l=[1]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l == [1] }}{{ ns.l | tojson }}",
      /nested/,
    ],
    ["{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", /nested too deeply/],
    ["{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}", /too many steps/],
    ["{% for x in messages recursive %}{{ loop(messages) }}{% endfor %}", /nested too deeply/],
    ["{{ 'x' | center(10**9) }}", /too long/],
    ["{{ 'x'.ljust(10**10) }}{{ 'x'.zfill(10**10) }}", /too long/],
    ["{{ 'a\tb'.expandtabs(10**9) }}", /too long/],
    ["{{ ('a' * 1000000).replace('', 'b' * 1000) }}", /too l/],
    ["{{ ('a' * 1000000) | indent(10**9) }}", /too l/],
    ["{{ [1] | batch(10**9, 0) | list }}", /too l/],
    ["{{ [1] | tojson(indent=10**9) }}", /too l/],
    ["{{ [1] | slice(10**9) | list }}", /too/],
    ["{% for i in range(99999) %}{% set x = ('a' * 100000).split('a') %}{% endfor %}", /too/],
    ["{% for i in range(99999) %}{{ messages[0].content * 10000 in 'b' * 100000 }}{% endfor %}", /too/],
    ["{% for i in range(99999) %}{{ range(99999) | list | sort }}{% endfor %}", /too/],
    ["{% for i in range(99999) %}{{ range(99999) | sum }}{% endfor %}", /too many steps/],
    ["{% for i in range(99999) %}{% filter upper %}{{ 'a' * 100000 }}{% endfilter %}{% endfor %}", /too/],
    [
      `{{ ${"[".repeat(140)}${"]".repeat(140)} | join }}{% for i in range(99999) %}{{ messages | string | length }}{{ 'é😀' * 10000 }}{% endfor %}`,
      /too/,
    ],
  ];

  // With a tenth of the limits, so that the test is quick; the next one has all of them.
  const few = { steps: RENDER_LIMITS.steps / 10, units: RENDER_LIMITS.units / 10, depth: RENDER_LIMITS.depth };

  it.each(limits)("%s ends by a limit", (template, limit) => {
    const render = () => new JinjaTemplate(template).render({ messages: USER }, () => new Date(), few);
    expect(render).toThrow(limit);
    expect(render).toThrow(limit.source === "Range too big" ? PyError : LimitExceeded);
  });

  it("end with a code and the limit's name", () => {
    const error = errorOf(() => new ChatTemplate(limits[1][0]).render(USER));
    expect([error.code, error.message]).toEqual([
      "CHAT_TEMPLATE_FAILED",
      expect.stringMatching(/^the chat template was stopped: it takes too many steps \(over 2000\d+\)$/),
    ]);
    const range = errorOf(() => new ChatTemplate(limits[0][0]).render(USER));
    expect(range.code).toBe("CHAT_TEMPLATE_FAILED");
    expect(range.message).toContain("OverflowError: Range too big. The sandbox blocks ranges larger than");
  });

  it.each([
    ["{{ 2 ** (10**9) }}", "an int of more than"],
    ["{{ 10 ** (10 ** 9) % 7 }}", "an int of more than"],
    ["{{ '%1000000000d' % 1 }}", "columns or digits"],
    ["{{ '%.*f' % (10**8, 1.5) }}", "columns or digits"],
    ["{{ '{:>1000000000}'.format(1) }}", "columns or digits"],
    ["{{ 'a' | random }}", "the filter random"],
    ["{{ messages[0].content.upper }}", "printing an object"],
  ])("%s is refused by name", (template, feature) => {
    const error = errorOf(() => new ChatTemplate(template).render(USER));
    expect(error.code).toBe("CHAT_TEMPLATE_UNSUPPORTED");
    expect(error.message).toContain(feature);
  });

  it.each([
    `{{ ${"(".repeat(50_000)}1${")".repeat(50_000)} }}`,
    "{% if x %}".repeat(50_000),
    `{{ ${"not ".repeat(50_000)}1 }}`,
    `{{ ${"-".repeat(50_000)}1 }}`,
    `{{ ${"[".repeat(50_000)} }}`,
  ])("nesting without end does not parse", (template) => {
    expect(errorOf(() => new ChatTemplate(template)).code).toBe("CHAT_TEMPLATE_INVALID");
  });

  it("long chains of operators neither overflow the stack nor hang", () => {
    const chain = (part: string) => `{{ messages[0].role${part.repeat(1000)} }}`;
    for (const part of [" ~ 'a'", " | upper", ".upper()", " + 'b'", " or 1", "[0:]"]) {
      try {
        expect(new ChatTemplate(chain(part)).render(USER)).not.toBe("");
      } catch (error) {
        expect((error as TokenizerError).code).toMatch(/^CHAT_TEMPLATE_(FAILED|INVALID)$/);
      }
    }
  });

  it("values that go in circles or are too deep are refused", () => {
    const circle: Record<string, unknown> = { role: "user" };
    circle.self = circle;
    const template = new ChatTemplate("{{ messages }}");
    expect(errorOf(() => template.render([circle as never])).message).toContain("nested too deeply");
    expect(errorOf(() => template.render([{ role: "user", content: (() => 1) as never }])).code).toBe(
      "CHAT_TEMPLATE_FAILED",
    );
  });

  it("a long conversation is no hostile one", () => {
    const messages = Array.from({ length: 2000 }, (_, i) => ({
      role: i % 2 ? "assistant" : "user",
      content: "word ".repeat(400),
    }));
    const template = new ChatTemplate(
      "{% for m in messages[::-1] %}{% endfor %}{% for m in messages %}<{{ m.role }}>{{ m.content.split('x')[-1].strip() | trim }}\n{% endfor %}",
    );
    expect(template.render(messages).length).toBeGreaterThan(2000 * 1999);
  });
});

describe("messages of errors", () => {
  it("name the line and have jinja2's words", () => {
    const invalid = errorOf(() => new ChatTemplate("a\n{% for m in messages %}\n{{ m }}\n"));
    expect(invalid.code).toBe("CHAT_TEMPLATE_INVALID");
    expect(invalid.message).toBe(
      "the chat template does not parse: Unexpected end of template. Jinja was looking for the following tags: 'endfor' or 'else'. The innermost block that needs to be closed is 'for'. (line 3 of the template)",
    );
    const failed = errorOf(() => new ChatTemplate("a\n\n{{ messages[0].x.y }}").render(USER));
    expect(failed.message).toBe(
      "the chat template failed: UndefinedError: 'dict object' has no attribute 'x' (line 3 of the template)",
    );
    const raised = errorOf(() => new ChatTemplate("{{ raise_exception('no robots') }}").render(USER));
    expect([raised.code, raised.message]).toEqual(["CHAT_TEMPLATE_FAILED", "the chat template failed: no robots"]);
  });
});

describe("a tokenizer's templates", () => {
  it("are chosen as transformers chooses", () => {
    const dir = folder("several", (to) => {
      writeFileSync(join(to, "chat_template.jinja"), "default");
      mkdirSync(join(to, "additional_chat_templates"));
      writeFileSync(join(to, "additional_chat_templates", "tool_use.jinja"), "tools {{ tools | length }}");
      writeFileSync(join(to, "additional_chat_templates", "rag.jinja"), "rag {{ documents | length }}");
    });
    const tokenizer = Tokenizer.fromPretrained(dir);
    expect(tokenizer.chatTemplateNames.sort()).toEqual(["default", "rag", "tool_use"]);
    expect(tokenizer.renderChat(USER)).toBe("default");
    expect(tokenizer.renderChat(USER, { tools: [] })).toBe("tools 0");
    expect(tokenizer.renderChat(USER, { tools: null })).toBe("default");
    expect(tokenizer.renderChat(USER, { template: "rag", documents: [{ text: "a" }] })).toBe("rag 1");
    const missing = errorOf(() => tokenizer.renderChat(USER, { template: "no" }));
    expect([missing.code, missing.message]).toEqual([
      "CHAT_TEMPLATE_MISSING",
      `the tokenizer at ${dir} has no chat template named "no"; it has default, rag, tool_use`,
    ]);
    const copy = join(root, "copy");
    tokenizer.save(copy);
    expect(Tokenizer.fromPretrained(copy).renderChat(USER, { tools: [{}] })).toBe("tools 1");
  });

  it("go with a checkpoint, all of them", async () => {
    const dir = folder("with-model", (to) => {
      writeFileSync(join(to, "chat_template.jinja"), "default");
      mkdirSync(join(to, "additional_chat_templates"));
      writeFileSync(join(to, "additional_chat_templates", "rag.jinja"), "rag {{ documents | length }}");
    });
    using coder = StableDiffCoder.fromConfig("tiny", { tokenizer: dir, seed: 1 });
    const saved = join(root, "saved-with-templates");
    await coder.savePretrained(saved);
    const tokenizer = Tokenizer.fromPretrained(saved);
    expect(tokenizer.chatTemplateNames.sort()).toEqual(["default", "rag"]);
    expect(tokenizer.renderChat(USER)).toBe("default");
    expect(tokenizer.renderChat(USER, { template: "rag", documents: [{}] })).toBe("rag 1");
  });

  it("of tokenizer_config.json count where there are no files", () => {
    const listed = [
      { name: "default", template: "d" },
      { name: "tool_use", template: "t" },
    ];
    const write = (to: string, chat_template: unknown) =>
      writeFileSync(join(to, "tokenizer_config.json"), JSON.stringify({ chat_template }));
    const config = Tokenizer.fromPretrained(folder("config", (to) => write(to, listed)));
    expect([config.renderChat(USER), config.renderChat(USER, { tools: [{}] })]).toEqual(["d", "t"]);
    const both = folder("both", (to) => {
      write(to, listed);
      writeFileSync(join(to, "chat_template.jinja"), "file");
    });
    expect(Tokenizer.fromPretrained(both).renderChat(USER, { tools: [{}] })).toBe("file");
    const noDefault = Tokenizer.fromPretrained(folder("no-default", (to) => write(to, [listed[1]])));
    expect(noDefault.hasChatTemplate).toBe(true);
    expect(errorOf(() => noDefault.renderChat(USER)).message).toContain('named "default"; it has tool_use');
    expect(errorOf(() => Tokenizer.fromPretrained(folder("number", (to) => write(to, 5)))).code).toBe(
      "TOKENIZER_FILE_INVALID",
    );
  });

  it("that do not parse are there, and say so", () => {
    const dir = folder("broken", (to) => writeFileSync(join(to, "chat_template.jinja"), "{% if %}"));
    const tokenizer = Tokenizer.fromPretrained(dir);
    expect(tokenizer.hasChatTemplate).toBe(true);
    expect(errorOf(() => tokenizer.encodeChat(USER)).code).toBe("CHAT_TEMPLATE_INVALID");
    const none = Tokenizer.fromPretrained(folder("none", () => {}));
    expect(none.hasChatTemplate).toBe(false);
    expect(errorOf(() => none.encodeChat(USER)).code).toBe("CHAT_TEMPLATE_MISSING");
  });

  it("see no fields that are null", () => {
    const dir = folder("nulls", (to) => {
      writeFileSync(
        join(to, "chat_template.jinja"),
        "{% for m in messages %}[{{ m.content }}|{{ m.tool_calls is defined }}]{% endfor %}",
      );
    });
    const messages = [{ role: "assistant", content: null, tool_calls: null }];
    expect(Tokenizer.fromPretrained(dir).renderChat(messages)).toBe("[|False]");
  });
});

describe("segments", () => {
  it("go by the generation prompt, or by generation blocks where there are some", () => {
    const messages = [
      { role: "user", content: "q" },
      { role: "assistant", content: "    return x\n" },
      { role: "user", content: "r" },
      { role: "assistant", content: "b" },
    ];
    const plain =
      "{% for m in messages %}<{{ m.role }}>{{ m.content.lstrip('\\n') }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    const answers = (template: string) =>
      new ChatTemplate(template)
        .segments(messages)
        .filter((one) => one.isAnswer)
        .map((one) => one.text);
    expect(answers(plain)).toEqual(["    return x\n</s>", "b</s>"]);
    const marked =
      "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}</s>{% endfor %}";
    expect(new ChatTemplate(marked).marksAnswers).toBe(true);
    expect(answers(marked)).toEqual(["    return x\n", "b"]);
    // A template that rewrites earlier turns has no cut of its own, but its blocks say what is said.
    const rewriting =
      "{{ messages | length }}{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}";
    expect(answers(rewriting)).toEqual(["q", "    return x\n", "r", "b"]);
    expect(errorOf(() => answers("{{ messages | length }}")).message).toContain("one answer at a time");
  });
});
