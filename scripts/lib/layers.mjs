// The layers of lib/, lowest first: what each holds, and which others it may import. The linter (biome.layers.json), the
// test of the rules and the table in CONTRIBUTING.md are made of this: `npm run layers` after a change.

/** @type {{ name: string, holds: string, imports: string[] }[]} */
export const LAYERS = [];

/**
 * Adds a layer that may import `imports`, or else every layer before it but those in `besides`.
 *
 * @param {string} name
 * @param {string} holds
 * @param {{ imports?: string[], besides?: string[] }} [rule]
 */
function layer(name, holds, { imports, besides = [] } = {}) {
  const before = LAYERS.map((each) => each.name).filter((each) => !besides.includes(each));
  LAYERS.push({ name, holds, imports: imports ?? before });
}

layer("base", "errors with codes, options, reading files that others made");
layer("worker", "worker threads and child processes: how they start, and one typed request and reply over them", {
  imports: [],
});
layer("torch", "tensors, operators, autograd, memory; native/ for C++");
layer("nn", "layers, optimisers, learning rates");
layer("distributed", "process groups, collectives, sharded and replicated data parallelism, tensor parallelism");
layer("tokenizer", "tokenizers, chat templates, special tokens; must not load the addon", { imports: ["base"] });
layer("model", "the decoder, its configs, architectures and presets", { besides: ["distributed"] });
layer("checkpoint", "models and runs on disk: reading, writing, exporting, saving while training goes on");
layer("diffusion", "noise, corruption, objectives, samplers, likelihood");
layer("data", "text, packing, the order of samples", { besides: ["diffusion"] });
layer("parallel", "a model laid over a mesh of processes");
layer("train", "stages, runs, metrics");
layer("engine", "batched decoding: scheduler, paged KV cache, passes", { besides: ["train"] });
layer("server", "HTTP in OpenAI's protocol, and the page");
layer("eval", "benchmarks: prompts, sandboxed programs, scores");
layer("cli", "what a person types and sees");

/** The linter's rules, as text of biome.layers.json. */
export function lintRules() {
  const overrides = LAYERS.map(({ name, imports }) => {
    const forbidden = LAYERS.map((each) => each.name).filter((each) => each !== name && !imports.includes(each));
    const allowed =
      imports.length > 0
        ? `only from ${imports.map((each) => `lib/${each}`).join(", ")}`
        : "from no other folder of lib/";
    const group = [
      ...forbidden.map((each) => `**/${each}/**`),
      ...forbidden.map((each) => `stable-diffcoder/${each}`),
      "stable-diffcoder",
    ];
    const message = `lib/${name} may import ${allowed}: imports point downward.`;
    const noRestrictedImports = { level: "error", options: { patterns: [{ group, message }] } };
    return { includes: [`lib/${name}/**`], linter: { rules: { style: { noRestrictedImports } } } };
  });
  return `${JSON.stringify({ overrides }, undefined, 2)}\n`;
}

const BEGIN = "<!-- layers: made by npm run layers -->\n";
const END = "<!-- /layers -->\n";

/** CONTRIBUTING.md with the table of today. */
export function contributingWith(text) {
  const from = text.indexOf(BEGIN) + BEGIN.length;
  const to = text.indexOf(END);
  if (from < BEGIN.length || to < from) throw new Error("CONTRIBUTING.md has no place for the table of layers");
  const rows = LAYERS.map(({ name, holds, imports }, i) => {
    const missing = LAYERS.slice(0, i).filter((each) => !imports.includes(each.name));
    const from =
      i === 0
        ? "nothing"
        : missing.length === 0
          ? "all above"
          : imports.length <= 2
            ? imports.join(", ")
            : `all above but ${missing.map((each) => each.name).join(", ")}`;
    return [`lib/${name}`, holds, from];
  });
  const head = ["Layer", "It is about", "May import"];
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i].length)));
  const line = (cells) => `| ${cells.map((cell, i) => cell.padEnd(widths[i])).join(" | ")} |\n`;
  const table = [line(head), line(widths.map((width) => "-".repeat(width))), ...rows.map(line)].join("");
  return `${text.slice(0, from)}\n${table}\n${text.slice(to)}`;
}
