import { type AddedToken, AddedVocabulary } from "./added-tokens.js";
import { toByteCharacters } from "./code-points.js";
import type { ComponentJson } from "./component.js";
import { unsupported } from "./component.js";
import { byteOfFallback, changesOf, type Decoder, openDecoder } from "./decoders.js";
import { openModel } from "./models/model.js";
import type { TokenModel } from "./models/vocabulary.js";
import { openNormalizer } from "./normalizers.js";
import { type Frame, openPostProcessor } from "./post-processors.js";
import { openPreTokenizer, type PreTokenizer, runStages } from "./pre-tokenizers.js";

/** The components of tokenizer.json. */
export interface PipelineJson {
  readonly model: ComponentJson;
  readonly added_tokens: readonly AddedToken[];
  readonly normalizer: ComponentJson | null;
  readonly pre_tokenizer: ComponentJson | null;
  readonly post_processor: ComponentJson | null;
  readonly decoder: ComponentJson | null;
}

/** Longer words are not cached, because few of them recur. */
const MAX_WORD = 64;
const MAX_WORDS = 200_000;

/**
 * The pipeline of tokenizer.json, as in Hugging Face's tokenizers (Rust): added tokens are extracted, the rest is
 * normalized and split into words, and each word is converted to ids. The ids of words are cached.
 */
export class Pipeline {
  readonly added: AddedVocabulary;
  readonly decoder: Decoder;
  readonly #changes: "none" | "bytes" | "any";
  /** One more than the highest id. */
  readonly vocabSize: number;
  readonly #model: TokenModel;
  readonly #stages: readonly PreTokenizer[];
  readonly #encodeWord: (word: string) => readonly number[];
  readonly #frame: Frame;
  readonly #words = new Map<string, readonly number[]>();

  /**
   * @param more additional tokens of tokenizer_config.json
   * @throws ComponentError for unknown or inconsistent components
   */
  constructor(json: PipelineJson, more: readonly AddedToken[] = []) {
    this.#model = openModel(json.model);
    const normalizer = json.normalizer ? openNormalizer(json.normalizer) : undefined;
    const { vocabulary } = this.#model;
    this.added = new AddedVocabulary(normalizer);
    for (const tokens of [json.added_tokens, more]) {
      this.added.add(tokens, vocabulary.size, (token) => vocabulary.idOf(token));
    }
    const { stages, endsInBytes, looksAtStart } = openPreTokenizer(json.pre_tokenizer);
    if (looksAtStart && normalizer) {
      throw unsupported("pre_tokenizer", 'prepend_scheme "first" is only supported without a normalizer');
    }
    this.#stages = stages;
    const { encode, encodeBytes } = this.#model;
    this.#encodeWord = endsInBytes ? (encodeBytes ?? ((word) => encode(toByteCharacters(word)))) : encode;
    this.#frame = openPostProcessor(json.post_processor);
    this.decoder = openDecoder(json.decoder);
    this.#changes = changesOf(json.decoder);
    let highest = vocabulary.highestId;
    for (const id of this.added.tokens.keys()) highest = Math.max(highest, id);
    this.vocabSize = highest + 1;
  }

  /** @throws TokenizerError TOKENIZER_TEXT for a character without a token, if there is no unknown token */
  encode(text: string, options: { addSpecialTokens: boolean; parseSpecialTokens: boolean }): number[] {
    const ids: number[] = [];
    for (const section of this.added.split(toWellFormed(text), options.parseSpecialTokens)) {
      if (typeof section === "number") ids.push(section);
      else this.#encodeSection(section.text, section.isFirst, ids);
    }
    const { addSpecialTokens } = options;
    if (this.#frame.length === 1 && this.#frame[0] === "text") return ids;
    return this.#frame.flatMap((one) => (one === "text" ? ids : addSpecialTokens ? [one] : []));
  }

  tokenToId(token: string): number | undefined {
    return this.added.idOf(token) ?? this.#model.vocabulary.idOf(token);
  }

  idToToken(id: number): string | undefined {
    return this.added.tokens.get(id)?.content ?? this.#model.vocabulary.tokenOf(id);
  }

  /** The token that the decoder receives for an id. */
  decodedToken(id: number): string | undefined {
    return this.added.decoded(id) ?? this.#model.vocabulary.tokenOf(id);
  }

  /** Whether the text of a final id may change when other ids follow. */
  mayChange(id: number): boolean {
    if (this.#changes !== "bytes") return this.#changes === "any";
    return byteOfFallback(this.decodedToken(id) ?? "") !== undefined;
  }

  #encodeSection(text: string, isFirst: boolean, out: number[]): void {
    for (const word of runStages(this.#stages, text, isFirst)) {
      const ids = this.#words.get(word) ?? this.#merge(word);
      for (let i = 0; i < ids.length; i++) out.push(ids[i]);
    }
  }

  #merge(word: string): readonly number[] {
    const ids = this.#encodeWord(word);
    if (word.length <= MAX_WORD) {
      if (this.#words.size >= MAX_WORDS) this.#words.clear();
      // A slice would keep the whole text alive, so the key is copied.
      this.#words.set(Buffer.from(word, "utf16le").toString("utf16le"), ids);
    }
    return ids;
  }
}

/** Replaces lone surrogates by U+FFFD, as UTF-8 encoders do. */
function toWellFormed(text: string): string {
  return /[\ud800-\udfff]/.test(text) ? text.replace(/\p{Surrogate}/gu, "\ufffd") : text;
}
