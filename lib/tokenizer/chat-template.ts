import { Template } from "@huggingface/jinja";
import { TokenizerError } from "./tokenizer-error.js";

/** One message of a conversation. Fields that a template knows besides (`tool_calls`, ...) are handed on. */
export interface ChatMessage {
  readonly role: string;
  readonly content: string;
  readonly [field: string]: unknown;
}

/** What a template is told besides the messages. */
export interface ChatRenderOptions {
  /** End with the start of an assistant's turn, so that the model answers. Default false. */
  addGenerationPrompt?: boolean;
  tools?: readonly unknown[];
  documents?: readonly unknown[];
  /** More variables for the template, by name: `enable_thinking` and the like. */
  variables?: Readonly<Record<string, unknown>>;
}

/** A stretch of a written conversation: an assistant's words (with what ends the turn), or all the rest. */
export interface ChatSegment {
  readonly text: string;
  readonly isAnswer: boolean;
}

/**
 * A chat template in Jinja as Hugging Face tokenizers carry it. The library brings transformers' functions
 * (`raise_exception`, `strftime_now`, `range`) and its rules for white space; this adds the names of special tokens.
 */
export class ChatTemplate {
  readonly source: string;
  readonly #template: Template;
  readonly #tokens: Readonly<Record<string, string | undefined>>;

  /**
   * @param tokens `bos_token`, `eos_token`, ... as the template calls them
   * @throws TokenizerError CHAT_TEMPLATE_INVALID if the source does not parse
   */
  constructor(source: string, tokens: Readonly<Record<string, string | undefined>> = {}) {
    this.source = source;
    this.#tokens = tokens;
    try {
      this.#template = new Template(source);
    } catch (cause) {
      const message = `the chat template does not parse: ${(cause as Error).message}`;
      throw new TokenizerError("CHAT_TEMPLATE_INVALID", message, { cause });
    }
  }

  /**
   * Writes a conversation as one text, special tokens by name.
   *
   * @throws TokenizerError CHAT_TEMPLATE_FAILED with the template's own words if it refuses the messages
   */
  render(messages: readonly ChatMessage[], options: ChatRenderOptions = {}): string {
    const { addGenerationPrompt = false, tools, documents, variables } = options;
    try {
      return this.#template.render({
        ...this.#tokens,
        ...variables,
        ...(tools && { tools }),
        ...(documents && { documents }),
        messages,
        add_generation_prompt: addGenerationPrompt,
      });
    } catch (cause) {
      const message = `the chat template failed: ${(cause as Error).message}`;
      throw new TokenizerError("CHAT_TEMPLATE_FAILED", message, { cause });
    }
  }

  /**
   * The conversation cut into what the model answers and what it is given. Each answer starts where the generation
   * prompt ends, so training sees exactly the cut that it meets when it answers.
   *
   * @throws TokenizerError CHAT_TEMPLATE_FAILED if the template rewrites earlier turns (some drop old reasoning): then
   * no cut is right for all of them, and the conversation has to be given one answer at a time
   */
  segments(messages: readonly ChatMessage[], options: ChatRenderOptions = {}): ChatSegment[] {
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
