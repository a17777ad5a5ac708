import { LimitExceeded, PyError, TemplateSyntaxError, UnsupportedFeature } from "./jinja/errors.js";
import { JinjaTemplate, type Rendered } from "./jinja/template.js";
import { TokenizerError } from "./tokenizer-error.js";

/** One message of a conversation. Fields that a template knows besides (`tool_calls`, ...) are handed on. */
export interface ChatMessage {
  readonly role: string;
  /** The text, or parts (`{ type: "text", text }`) where the template reads parts. */
  readonly content?: string | readonly unknown[] | null;
  readonly [field: string]: unknown;
}

/** What a template is told besides the messages. */
export interface ChatRenderOptions {
  /** End with the start of an assistant's turn, so that the model answers. Default false. */
  addGenerationPrompt?: boolean;
  /** Tools as JSON schemas. None is `none` to the template, as in transformers. */
  tools?: readonly unknown[] | null;
  documents?: readonly unknown[] | null;
  /** More variables for the template, by name: `enable_thinking` and the like. */
  variables?: Readonly<Record<string, unknown>>;
  /** The time that `strftime_now` gives. Default the present. */
  now?: Date;
}

/** A stretch of a written conversation: an assistant's words (with what ends the turn), or all the rest. */
export interface ChatSegment {
  readonly text: string;
  readonly isAnswer: boolean;
}

/**
 * A chat template in Jinja as Hugging Face tokenizers carry it. It gives what transformers' `render_jinja_template`
 * gives, or an error; rendering is bounded in time and memory (docs/models.md has the limits).
 */
export class ChatTemplate {
  readonly source: string;
  readonly #template: JinjaTemplate;
  readonly #tokens: Readonly<Record<string, string | undefined>>;

  /**
   * @param tokens `bos_token`, `eos_token`, ... as the template calls them
   * @throws TokenizerError CHAT_TEMPLATE_INVALID with the line if the source does not parse, CHAT_TEMPLATE_UNSUPPORTED
   * for a part of Jinja that is left out
   */
  constructor(source: string, tokens: Readonly<Record<string, string | undefined>> = {}) {
    this.source = source;
    this.#tokens = tokens;
    try {
      this.#template = new JinjaTemplate(source);
    } catch (cause) {
      throw errorOf(cause instanceof RangeError ? new TemplateSyntaxError("nested too deeply", 1) : cause);
    }
  }

  /** Whether the template marks the assistant's words by the tag `generation`: then {@link segments} goes by it. */
  get marksAnswers(): boolean {
    return this.#template.marksGeneration;
  }

  /**
   * Writes a conversation as one text, special tokens by name. A field that is null is None to the template;
   * Tokenizer.renderChat leaves such fields out, as transformers' apply_chat_template does.
   *
   * @throws TokenizerError CHAT_TEMPLATE_FAILED with the template's or Python's own words if it refuses the messages, or
   * with the limit that it exceeds; CHAT_TEMPLATE_UNSUPPORTED for a part of Jinja that is left out
   */
  render(messages: readonly ChatMessage[], options: ChatRenderOptions = {}): string {
    return this.#render(messages, options).text;
  }

  #render(messages: readonly ChatMessage[], options: ChatRenderOptions): Rendered {
    const { addGenerationPrompt = false, tools, documents, variables, now } = options;
    const given = {
      ...this.#tokens,
      ...variables,
      tools: tools ?? null,
      documents: documents ?? null,
      messages: messages.map(withReasoning),
      add_generation_prompt: addGenerationPrompt,
    };
    try {
      return this.#template.render(given, () => now ?? new Date());
    } catch (cause) {
      throw errorOf(cause);
    }
  }

  /**
   * The conversation cut into what the model answers and what it is given. Where the template marks the assistant's
   * words by the tag `generation`, they are the answers, as in transformers' assistant mask. Elsewhere each answer starts
   * where the generation prompt ends, so training sees exactly the cut that it meets when it answers. Fields that are
   * null count as absent.
   *
   * @throws as render() does; TokenizerError CHAT_TEMPLATE_FAILED also if a template without that tag rewrites earlier
   * turns (some drop old reasoning): then no cut is right for all of them, and the conversation has to be given one
   * answer at a time
   */
  segments(conversation: readonly ChatMessage[], options: ChatRenderOptions = {}): ChatSegment[] {
    const messages = withoutNulls(conversation);
    if (this.#template.marksGeneration) return cut(this.#render(messages, options));
    const segments: ChatSegment[] = [];
    let written = "";
    const extend = (to: string, isAnswer: boolean, turn: number) => {
      if (!to.startsWith(written)) {
        throw new TokenizerError(
          "CHAT_TEMPLATE_FAILED",
          `the chat template writes earlier turns differently once message ${turn} is there; ` +
            "give such conversations one answer at a time",
        );
      }
      if (to.length > written.length) segments.push({ text: to.slice(written.length), isAnswer });
      written = to;
    };
    for (let i = 0; i < messages.length; i++) {
      if (messages[i].role !== "assistant") continue;
      extend(this.render(messages.slice(0, i), { ...options, addGenerationPrompt: true }), false, i);
      extend(this.render(messages.slice(0, i + 1), { ...options, addGenerationPrompt: false }), true, i);
    }
    extend(this.render(messages, options), false, messages.length - 1);
    return segments;
  }
}

/** The messages without fields that are null, which apply_chat_template of transformers leaves out. */
export function withoutNulls(messages: readonly ChatMessage[]): ChatMessage[] {
  const isGiven = ([, value]: [string, unknown]) => value !== null && value !== undefined;
  return messages.map((message) => Object.fromEntries(Object.entries(message).filter(isGiven)) as ChatMessage);
}

/** A message whose reasoning is under the names that templates read, as transformers does. */
function withReasoning(message: ChatMessage): ChatMessage {
  const reasoning = message.reasoning_content ?? message.thinking ?? message.reasoning ?? null;
  return reasoning === null ? message : { thinking: reasoning, ...message, reasoning_content: reasoning };
}

/** A text cut at its spans, which are the answers. */
function cut({ text, spans }: Rendered): ChatSegment[] {
  const segments: ChatSegment[] = [];
  let end = 0;
  const push = (to: number, isAnswer: boolean) => {
    if (to > end) segments.push({ text: text.slice(end, to), isAnswer });
    end = Math.max(end, to);
  };
  for (const [start, stop] of [...spans].sort(([a], [b]) => a - b)) {
    push(start, false);
    push(stop, true);
  }
  push(text.length, false);
  return segments;
}

/** What went wrong with a template, with a stable code. */
function errorOf(cause: unknown): TokenizerError {
  const at = (line: number | undefined) => (line === undefined ? "" : ` (line ${line} of the template)`);
  if (cause instanceof TemplateSyntaxError) {
    const message = `the chat template does not parse: ${cause.message}${at(cause.line)}`;
    return new TokenizerError("CHAT_TEMPLATE_INVALID", message, { cause });
  }
  if (cause instanceof UnsupportedFeature) {
    const message = `the chat template uses what is not supported here: ${cause.message}${at(cause.line)}`;
    return new TokenizerError("CHAT_TEMPLATE_UNSUPPORTED", message, { cause });
  }
  if (cause instanceof PyError) {
    const words = cause.kind === "TemplateError" ? cause.message : `${cause.kind}: ${cause.message}${at(cause.line)}`;
    return new TokenizerError("CHAT_TEMPLATE_FAILED", `the chat template failed: ${words}`, { cause });
  }
  if (cause instanceof LimitExceeded) {
    return new TokenizerError("CHAT_TEMPLATE_FAILED", `the chat template was stopped: ${cause.message}`, { cause });
  }
  if (cause instanceof RangeError) {
    const message = "the chat template was stopped: it is nested too deeply for the stack";
    return new TokenizerError("CHAT_TEMPLATE_FAILED", message, { cause });
  }
  throw cause;
}
