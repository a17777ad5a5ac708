import { LimitExceeded, PyError, TemplateSyntaxError, UnsupportedFeature } from "./jinja/errors.js";
import { JinjaTemplate, type Rendered } from "./jinja/template.js";
import { TokenizerError } from "./tokenizer-error.js";

/** One message of a conversation. Other fields (`tool_calls`, ...) are passed to the template. */
export interface ChatMessage {
  readonly role: string;
  /** The text, or parts (`{ type: "text", text }`) if the template supports parts. */
  readonly content?: string | readonly unknown[] | null;
  readonly [field: string]: unknown;
}

/** Inputs of a template besides the messages. */
export interface ChatRenderOptions {
  /** End with the start of an assistant's turn, so that the model answers. Default false. */
  addGenerationPrompt?: boolean;
  /** Tools as JSON schemas. Without tools the variable is `none`, as in transformers. */
  tools?: readonly unknown[] | null;
  documents?: readonly unknown[] | null;
  /** Other variables of the template, by name, such as `enable_thinking`. */
  variables?: Readonly<Record<string, unknown>>;
  /** The time that `strftime_now` formats. Default: now. */
  now?: Date;
}

/**
 * A segment of a rendered conversation: an assistant's answer (including the end of the turn), or the text in between.
 */
export interface ChatSegment {
  readonly text: string;
  readonly isAnswer: boolean;
}

/**
 * A chat template in Jinja as Hugging Face tokenizers carry it. The result equals that of transformers'
 * `render_jinja_template`, or an error is thrown; rendering is bounded in time and memory (docs/models.md has the
 * limits).
 */
export class ChatTemplate {
  readonly source: string;
  readonly #template: JinjaTemplate;
  readonly #tokens: Readonly<Record<string, string | undefined>>;

  /**
   * @param tokens the template's variables `bos_token`, `eos_token`, ...
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

  /** Whether the template marks the assistant's answers with the tag `generation`, which {@link segments} then uses. */
  get marksAnswers(): boolean {
    return this.#template.marksGeneration;
  }

  /**
   * Renders a conversation to one text, with special tokens by name. A null field is None in the template;
   * Tokenizer.renderChat leaves such fields out, as transformers' apply_chat_template does.
   *
   * @throws TokenizerError CHAT_TEMPLATE_FAILED with the template's or Python's message if it rejects the messages, or
   *   with the limit that it exceeds; CHAT_TEMPLATE_UNSUPPORTED for a part of Jinja that is left out
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
   * Splits a conversation into the model's answers and its inputs. If the template has the tag `generation`, the marked
   * text is the answers, as in transformers' assistant mask. Otherwise each answer starts where the generation prompt
   * ends, so that training and generation have the same boundary. Null fields count as absent.
   *
   * @throws as render() does; TokenizerError CHAT_TEMPLATE_FAILED also if a template without that tag renders earlier
   *   turns differently once others follow (some drop old reasoning): no split is then valid for all answers, and the
   *   conversation must be passed one answer at a time
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
          `the chat template renders earlier turns differently when message ${turn} is added; ` +
            "pass such conversations one answer at a time",
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

/** The messages without null fields, which transformers' apply_chat_template leaves out, too. */
export function withoutNulls(messages: readonly ChatMessage[]): ChatMessage[] {
  const isGiven = ([, value]: [string, unknown]) => value !== null && value !== undefined;
  return messages.map((message) => Object.fromEntries(Object.entries(message).filter(isGiven)) as ChatMessage);
}

/** Copies a message's reasoning to all field names that templates read, as transformers does. */
function withReasoning(message: ChatMessage): ChatMessage {
  const reasoning = message.reasoning_content ?? message.thinking ?? message.reasoning ?? null;
  return reasoning === null ? message : { thinking: reasoning, ...message, reasoning_content: reasoning };
}

/** Splits a text at its spans, which are the answers. */
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

/** Converts a fault of a template to an error with a stable code. */
function errorOf(cause: unknown): TokenizerError {
  const at = (line: number | undefined) => (line === undefined ? "" : ` (line ${line} of the template)`);
  if (cause instanceof TemplateSyntaxError) {
    const message = `the chat template does not parse: ${cause.message}${at(cause.line)}`;
    return new TokenizerError("CHAT_TEMPLATE_INVALID", message, { cause });
  }
  if (cause instanceof UnsupportedFeature) {
    const message = `the chat template uses an unsupported feature: ${cause.message}${at(cause.line)}`;
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
