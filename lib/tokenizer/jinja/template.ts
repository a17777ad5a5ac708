import { compileTemplate, type Program } from "./compiler.js";
import { fromJs } from "./convert.js";
import { makeGlobals } from "./globals.js";
import { extendLimits, type RenderLimits, withLimits } from "./meter.js";
import { descendants, type Node } from "./nodes.js";
import { parseTemplate } from "./parser.js";
import { Context, Output, Scope } from "./runtime.js";

/** The result of a rendering. */
export interface Rendered {
  readonly text: string;
  /** Spans of the tag `generation`: starts and ends in `text`, in UTF-16 units. */
  readonly spans: readonly (readonly [start: number, end: number])[];
}

/** Limits of one rendering, in addition to those that depend on its input. */
export const RENDER_LIMITS: RenderLimits = { steps: 2_000_000, units: 1 << 27, depth: 150 };
/** Amounts that each character and element of the input adds to the limits. */
const PER_INPUT = { steps: 1, units: 32 };
const COMPILE_LIMITS: RenderLimits = { steps: 1_000_000, units: 1 << 26, depth: 150 };

/**
 * A Jinja template with transformers' settings for chat templates: jinja2 3.1 with trim_blocks, lstrip_blocks, loop
 * controls, the tag `generation` and an immutable sandbox. Values and error messages are those of Python.
 */
export class JinjaTemplate {
  readonly #program: Program;
  /** Whether the template marks the assistant's answers with the tag `generation`. */
  readonly marksGeneration: boolean;

  /** @throws TemplateSyntaxError, UnsupportedFeature */
  constructor(source: string) {
    const body = withLimits(COMPILE_LIMITS, () => parseTemplate(source));
    this.marksGeneration = body.some((node) => [node, ...descendants(node)].some(isGeneration));
    this.#program = withLimits(COMPILE_LIMITS, () => compileTemplate(body));
  }

  /**
   * @param variables by name; undefined ones are left out
   * @throws PyError for an exception of Python, UnsupportedFeature, LimitExceeded
   */
  render(
    variables: Readonly<Record<string, unknown>>,
    now: () => Date,
    limits: RenderLimits = RENDER_LIMITS,
  ): Rendered {
    return withLimits(limits, () => {
      const given = makeGlobals(now);
      for (const [name, value] of Object.entries(variables)) if (value !== undefined) given.set(name, fromJs(value));
      extendLimits(PER_INPUT);
      const out = new Output();
      const run = { root: out, spans: [] as [number, number][] };
      this.#program(new Scope(run, new Context(given)), out);
      return { text: out.text(), spans: run.spans };
    });
  }
}

function isGeneration(node: Node): boolean {
  return node.kind === "CallBlock" && node.call === undefined;
}
