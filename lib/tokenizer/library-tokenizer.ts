import * as huggingface from "@huggingface/tokenizers";
import { ByteLevelEncoder, ByteMerger, wordPreTokenizers } from "./byte-level.js";
import { TokenizerError } from "./tokenizer-error.js";
import type { AddedToken, TokenizerFiles } from "./tokenizer-files.js";

/** The parts of the library that are used. Declared here: its own types do not resolve under NodeNext. */
interface LibraryPreTokenizer {
  pre_tokenize_text(text: string): string[];
}

interface LibraryModel {
  (words: string[]): string[];
  tokens_to_ids: Map<string, number>;
  vocab: (string | undefined)[];
  merges: [string, string][];
}

/** A tokenizer of the library: encodes and decodes every kind it knows. */
export interface LibraryTokenizer {
  normalizer: ((text: string) => string) | null;
  post_processor: ((tokens: string[], pair: null, addSpecial: boolean) => { tokens: string[] }) | null;
  model: LibraryModel;
  encode(text: string, options: { add_special_tokens: boolean }): { ids: number[] };
  decode(ids: number[], options: { skip_special_tokens: boolean; clean_up_tokenization_spaces: boolean }): string;
}

const library = huggingface as unknown as {
  Tokenizer: new (tokenizer: object, config: object) => LibraryTokenizer;
  SplitPreTokenizer: new (config: unknown) => LibraryPreTokenizer;
  DigitsPreTokenizer: new (config: unknown) => LibraryPreTokenizer;
};

/**
 * The library's tokenizer with the given added tokens.
 *
 * @throws TokenizerError TOKENIZER_UNSUPPORTED for a part of tokenizer.json that the library does not know
 */
export function openLibrary(files: TokenizerFiles, added: readonly AddedToken[]): LibraryTokenizer {
  try {
    const json = { ...files.tokenizer, added_tokens: added };
    return new library.Tokenizer(json, files.config);
  } catch (cause) {
    const message = `${files.dir}/tokenizer.json: ${(cause as Error).message}`;
    throw new TokenizerError("TOKENIZER_UNSUPPORTED", message, { cause });
  }
}

/** The fast encoder, or undefined if this tokenizer has something that only the library does. */
export function openEncoder(files: TokenizerFiles, tokenizer: LibraryTokenizer): ByteLevelEncoder | undefined {
  const stages = wordPreTokenizers(files.tokenizer);
  if (!stages || files.config.remove_space || files.config.do_lowercase_and_remove_accent) return undefined;
  const trims = files.tokenizer.added_tokens.some(
    (token) => token.lstrip || token.rstrip || token.single_word || (token.normalized && tokenizer.normalizer),
  );
  if (trims) return undefined;
  const splitters = stages.map((stage) =>
    stage?.type === "Digits" ? new library.DigitsPreTokenizer(stage) : new library.SplitPreTokenizer(stage),
  );
  const { model } = tokenizer;
  return new ByteLevelEncoder({
    splitWords: (text) => {
      let words = [text];
      for (const splitter of splitters) {
        words =
          words.length === 1
            ? splitter.pre_tokenize_text(words[0])
            : words.flatMap((word) => splitter.pre_tokenize_text(word));
      }
      return words;
    },
    mergeLong: (word) =>
      model([word])
        .map((token) => model.tokens_to_ids.get(token))
        .filter((id) => id !== undefined),
    merger: ByteMerger.from(model.tokens_to_ids, model.merges),
    ...(files.tokenizer.model.ignore_merges === true && { wholeWord: (word) => model.tokens_to_ids.get(word) }),
  });
}
