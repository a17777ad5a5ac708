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

/** The parts of tokenizer.json. */
export interface PipelineJson {
  readonly model: ComponentJson;
  readonly added_tokens: readonly AddedToken[];
  readonly normalizer: ComponentJson | null;
  readonly pre_tokenizer: ComponentJson | null;
  readonly post_processor: ComponentJson | null;
  readonly decoder: ComponentJson | null;
}

/** Words longer than this are not kept: few of them come again. */
const MAX_WORD = 64;
const MAX_WORDS = 200_000;

/**
 * What tokenizer.json describes, as Hugging Face's tokenizers (Rust) do it: added tokens are cut out, the rest is
 * normalised, split into words, and each word becomes ids. The ids of words are kept.
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
   * @param more tokens that tokenizer_config.json adds
   * @throws ComponentError for what is not known or does not fit together
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

  /** @throws TokenizerError TOKENIZER_TEXT for a character without a token, where there is no unknown token either */
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

  /** The token that the decoder gets for an id. */
  decodedToken(id: number): string | undefined {
    return this.added.decoded(id) ?? this.#model.vocabulary.tokenOf(id);
  }

  /** Whether the text of an id at the end may change with the ids that follow. */
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
      // A slice would keep the whole text alive, so the key is made anew.
      this.#words.set(Buffer.from(word, "utf16le").toString("utf16le"), ids);
    }
    return ids;
  }
}

/** Half a surrogate pair becomes U+FFFD, as in any UTF-8. */
function toWellFormed(text: string): string {
  return /[\ud800-\udfff]/.test(text) ? text.replace(/\p{Surrogate}/gu, "\ufffd") : text;
}
