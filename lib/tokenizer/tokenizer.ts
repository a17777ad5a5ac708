import { type ChatMessage, type ChatRenderOptions, ChatTemplate, withoutNulls } from "./chat-template.js";
import { bytesOfToken } from "./code-points.js";
import { ComponentError } from "./component.js";
import { byteOfFallback } from "./decoders.js";
import { Pipeline } from "./pipeline.js";
import {
  findSpecialTokens,
  missingToken,
  type SpecialTokenIds,
  type SpecialTokenOverrides,
  type SpecialTokenRole,
} from "./special-tokens.js";
import { StreamDecoder } from "./token-stream.js";
import { TokenizerError } from "./tokenizer-error.js";
import { copyTokenizerFiles, readTokenizerFiles, type TokenizerFiles } from "./tokenizer-files.js";

/** Options of encoding. */
export interface EncodeOptions {
  /** Add the tokens of the post-processor of tokenizer.json (often bos). Default true. */
  addSpecialTokens?: boolean;
  /** Parse special tokens such as "<[MASK_TOKEN]>" in the text. Default true; use false for untrusted text. */
  parseSpecialTokens?: boolean;
}

/** Options of decoding. */
export interface DecodeOptions {
  /** Omit special tokens such as bos, eos and mask. Default false. */
  skipSpecialTokens?: boolean;
}

/** Options of rendering a conversation. */
export interface ChatOptions extends ChatRenderOptions {
  /** The name of a template, if the files have several. Default: the one that transformers selects. */
  template?: string;
}

/** Options of loading a tokenizer. */
export interface TokenizerOptions {
  /** Special tokens by role, as a token or an id; they override the files. */
  specialTokens?: SpecialTokenOverrides;
}

/** The three tokens of fill-in-the-middle. */
export interface FimTokens {
  readonly prefix: number;
  readonly suffix: number;
  readonly middle: number;
}

/**
 * A tokenizer in the Hugging Face layout (tokenizer.json and its companions). Ids and texts are equal to those of
 * Hugging Face's library (Rust's tokenizers); components that are not supported exactly are rejected when the files are
 * read. Truncation and padding in tokenizer.json are ignored, as is the default in transformers.
 */
export class Tokenizer {
  /** The folder that it was loaded from. */
  readonly dir: string;
  /** The options with which it was loaded. */
  readonly options: TokenizerOptions;
  /** SHA-256 (hex) over everything that determines the ids of a text: equal hashes mean equal ids. */
  readonly hash: string;
  /** One more than the highest id, added tokens included. A model's embedding may have more rows. */
  readonly vocabSize: number;
  /**
   * Every id that ends a text, as in transformers' `generate`: from generation_config.json, else from config.json; in a
   * folder with neither, `eosId`.
   */
  readonly eosIds: readonly number[];
  /** The tokens with a role, by key: `bos_token` and so on (transformers' `special_tokens_map`). */
  readonly specialTokensMap: Readonly<Record<string, string>>;
  /** Whether text is the plain concatenation of the tokens' bytes. */
  readonly isByteLevel: boolean;

  readonly #files: TokenizerFiles;
  readonly #pipeline: Pipeline;
  readonly #ids: SpecialTokenIds;
  readonly #special: ReadonlySet<number>;
  readonly #bytes = new Map<number, Uint8Array>();
  readonly #chats = new Map<string, ChatTemplate>();

  private constructor(files: TokenizerFiles, options: TokenizerOptions) {
    this.#files = files;
    this.options = options;
    this.dir = files.dir;
    this.hash = files.hash;
    this.#pipeline = openPipeline(files);
    this.vocabSize = this.#pipeline.vocabSize;
    this.isByteLevel = files.tokenizer.decoder?.type === "ByteLevel";
    const found = findSpecialTokens(
      {
        names: files.names,
        model: files.model,
        tokenToId: (token) => this.tokenToId(token),
        idToToken: (id) => this.idToToken(id),
        vocabSize: this.vocabSize,
      },
      options.specialTokens,
    );
    this.#ids = found.ids;
    this.specialTokensMap = found.names;
    this.eosIds = found.eosIds;
    // As in Python, a role in the files does not make a token special, but a chosen token is special.
    const { fimPrefix: _1, fimSuffix: _2, fimMiddle: _3, ...chosen } = options.specialTokens ?? {};
    const roles = Object.keys(chosen).flatMap((role) => found.ids[role as SpecialTokenRole] ?? []);
    const added = [...this.#pipeline.added.tokens].filter(([, token]) => token.special).map(([id]) => id);
    this.#special = new Set([...added, ...roles]);
  }

  /**
   * Loads a tokenizer folder (tokenizer.json and, if they exist, tokenizer_config.json, special_tokens_map.json,
   * generation_config.json, config.json, chat_template.jinja).
   *
   * @param dir the folder, or "diffcoder/code-4k": the built-in small tokenizer for code
   * @throws TokenizerError TOKENIZER_FILE_MISSING, TOKENIZER_FILE_INVALID, TOKENIZER_UNSUPPORTED,
   * TOKENIZER_TOKEN_MISSING (a chosen special token that does not exist)
   */
  static fromPretrained(dir: string, options: TokenizerOptions = {}): Tokenizer {
    return new Tokenizer(readTokenizerFiles(dir), options);
  }

  /**
   * Copies the tokenizer's files into `dir`, which is created if needed. Special tokens chosen on loading are not
   * saved.
   */
  save(dir: string): void {
    copyTokenizerFiles(this.dir, dir);
  }

  get bosId(): number | undefined {
    return this.#ids.bos;
  }

  get eosId(): number | undefined {
    return this.#ids.eos;
  }

  get padId(): number | undefined {
    return this.#ids.pad;
  }

  get maskId(): number | undefined {
    return this.#ids.mask;
  }

  /** The fill-in-the-middle tokens, undefined unless all three exist. */
  get fim(): FimTokens | undefined {
    const { fimPrefix: prefix, fimSuffix: suffix, fimMiddle: middle } = this.#ids;
    return prefix === undefined || suffix === undefined || middle === undefined
      ? undefined
      : { prefix, suffix, middle };
  }

  /**
   * The id of a required token.
   *
   * @throws TokenizerError TOKENIZER_TOKEN_MISSING, with the names that were searched for and how to choose one
   */
  require(role: SpecialTokenRole): number {
    const id = this.#ids[role];
    if (id === undefined) throw missingToken(role, this.dir);
    return id;
  }

  /** Whether an id is that of a special token, which skipSpecialTokens drops. The same ids as in transformers. */
  isSpecial(id: number): boolean {
    return this.#special.has(id);
  }

  /** The id of a token in the form of tokenizer.json, undefined if there is none. */
  tokenToId(token: string): number | undefined {
    return this.#pipeline.tokenToId(token);
  }

  /** The token of an id in the form of tokenizer.json, undefined if there is none. */
  idToToken(id: number): string | undefined {
    return this.#pipeline.idToToken(id);
  }

  /**
   * The ids of a text. Lone surrogates become U+FFFD, as in UTF-8 encoders.
   *
   * @throws TokenizerError TOKENIZER_TEXT for a character without a token, if there is no unknown token
   */
  encode(text: string, options: EncodeOptions = {}): number[] {
    const { addSpecialTokens = true, parseSpecialTokens = true } = options;
    return this.#pipeline.encode(text, { addSpecialTokens, parseSpecialTokens });
  }

  /** encode() to a typed array. */
  encodeInt32(text: string, options: EncodeOptions = {}): Int32Array {
    return Int32Array.from(this.encode(text, options));
  }

  /**
   * The text of ids, "" for an empty list. Invalid UTF-8 bytes become U+FFFD; ids without a token (unused embedding
   * rows) are omitted, as in Python.
   *
   * @throws TokenizerError TOKENIZER_ID for a value that is not an integer >= 0
   */
  decode(ids: Iterable<number>, options: DecodeOptions = {}): string {
    const skip = options.skipSpecialTokens ?? false;
    const tokens: string[] = [];
    for (const id of ids) {
      checkId(id);
      const token = this.#pipeline.decodedToken(id);
      if (token !== undefined && !(skip && this.#special.has(id))) tokens.push(token);
    }
    return tokens.length === 0 ? "" : this.#pipeline.decoder(tokens).join("");
  }

  /** Whether the text of a final id may change when other ids follow, so that a stream must hold it back. */
  mayChange(id: number): boolean {
    return this.#pipeline.mayChange(id);
  }

  /** A decoder for ids that arrive one by one; it never returns an incomplete character. */
  stream(options: DecodeOptions = {}): StreamDecoder {
    return new StreamDecoder(this, options);
  }

  /**
   * The bytes of a token's text; empty for special tokens and ids without a token. For byte-level tokenizers, their
   * total over a text's ids is the text's UTF-8 length; for others a leading space may be counted in addition.
   */
  bytesOf(id: number): Uint8Array {
    return this.#special.has(id) ? NO_BYTES : this.rawBytesOf(id);
  }

  /** Like bytesOf(), but for special tokens the bytes of their names. The caller must not modify the result. */
  rawBytesOf(id: number): Uint8Array {
    checkId(id);
    const known = this.#bytes.get(id);
    if (known) return known;
    const token = this.#pipeline.decodedToken(id);
    let bytes: Uint8Array = NO_BYTES;
    if (token !== undefined) bytes = this.isByteLevel ? bytesOfToken(token) : bytesOfSentencePiece(token);
    this.#bytes.set(id, bytes);
    return bytes;
  }

  /** Number of bytes of text by id, [vocabSize]: bits per byte = sum(nll) / ln 2 / sum(byteLengths[id]). */
  byteLengths(): Uint16Array {
    return Uint16Array.from({ length: this.vocabSize }, (_, id) => this.bytesOf(id).length);
  }

  /**
   * The chat template; if there are several, the one named "default".
   *
   * @throws as {@link chatTemplateFor}
   */
  get chatTemplate(): ChatTemplate {
    return this.chatTemplateFor();
  }

  /** The names of the chat templates in the files. */
  get chatTemplateNames(): string[] {
    return [...this.#files.chatTemplates.keys()];
  }

  /**
   * The template that transformers would select: the named one; else, if there are tools, "tool_use" if it exists; else
   * "default".
   *
   * @throws TokenizerError CHAT_TEMPLATE_MISSING (no template, or none of that name; the message lists the names),
   * CHAT_TEMPLATE_INVALID, CHAT_TEMPLATE_UNSUPPORTED
   */
  chatTemplateFor(options: { tools?: readonly unknown[] | null; template?: string } = {}): ChatTemplate {
    const { chatTemplates } = this.#files;
    if (chatTemplates.size === 0) {
      const looked = "neither chat_template.jinja nor chat_template in tokenizer_config.json";
      throw new TokenizerError(
        "CHAT_TEMPLATE_MISSING",
        `the tokenizer at ${this.dir} has no chat template (${looked})`,
      );
    }
    const hasTools = options.tools !== undefined && options.tools !== null && chatTemplates.has("tool_use");
    const name = options.template ?? (hasTools ? "tool_use" : "default");
    const known = this.#chats.get(name);
    if (known) return known;
    const source = chatTemplates.get(name);
    if (source === undefined) {
      const names = this.chatTemplateNames.sort().join(", ");
      const message = `the tokenizer at ${this.dir} has no chat template named "${name}"; it has ${names}`;
      throw new TokenizerError("CHAT_TEMPLATE_MISSING", message);
    }
    const template = new ChatTemplate(source, this.specialTokensMap);
    this.#chats.set(name, template);
    return template;
  }

  /** Whether the files have a chat template, even one that does not parse, whose use is an error. */
  get hasChatTemplate(): boolean {
    return this.#files.chatTemplates.size > 0;
  }

  /**
   * Renders a conversation to one text like transformers' apply_chat_template: with the template for its tools, and
   * without null fields.
   *
   * @throws as {@link chatTemplateFor} and ChatTemplate.render do
   */
  renderChat(messages: readonly ChatMessage[], options: ChatOptions = {}): string {
    return this.chatTemplateFor(options).render(withoutNulls(messages), options);
  }

  /** The ids of the text of renderChat(), with the same errors. */
  encodeChat(messages: readonly ChatMessage[], options: ChatOptions = {}): number[] {
    return this.encode(this.renderChat(messages, options), { addSpecialTokens: false });
  }
}

/** @throws TokenizerError TOKENIZER_FILE_INVALID, TOKENIZER_UNSUPPORTED */
function openPipeline(files: TokenizerFiles): Pipeline {
  try {
    return new Pipeline(files.tokenizer, files.moreTokens);
  } catch (cause) {
    if (!(cause instanceof ComponentError)) throw cause;
    throw new TokenizerError(cause.code, `${files.dir}/tokenizer.json: ${cause.message}`, { cause });
  }
}

const NO_BYTES: Uint8Array = new Uint8Array(0);

/** SentencePiece with byte fallback (Llama 2): "▁" is a space, "<0x0A>" a byte. */
function bytesOfSentencePiece(token: string): Uint8Array {
  const byte = byteOfFallback(token);
  return byte === undefined ? Buffer.from(token.replaceAll("▁", " "), "utf8") : Uint8Array.of(byte);
}

function checkId(id: number): void {
  if (!Number.isSafeInteger(id) || id < 0) {
    throw new TokenizerError("TOKENIZER_ID", `not a token id: ${String(id)} (expected an integer >= 0)`);
  }
}
