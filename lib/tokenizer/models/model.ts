import * as z from "zod";
import { type ComponentJson, invalid, settings, text, unsupported } from "../component.js";
import { openBpe } from "./bpe.js";
import { openUnigram } from "./unigram.js";
import { type TokenModel, Vocabulary } from "./vocabulary.js";

/**
 * Opens the model of tokenizer.json.
 *
 * @throws ComponentError for an unknown model or invalid settings
 */
export function openModel(json: ComponentJson): TokenModel {
  switch (typeOf(json)) {
    case "BPE":
      return openBpe(json);
    case "WordPiece":
      return openWordPiece(json);
    case "WordLevel":
      return openWordLevel(json);
    case "Unigram":
      return openUnigram(json);
    default:
      throw unsupported("model", `the model ${JSON.stringify(json.type)} is not supported`);
  }
}

/** The type of the model, which old files do not contain. */
function typeOf(json: ComponentJson): unknown {
  if (json.type !== undefined) return json.type;
  if (json.merges !== undefined) return "BPE";
  if (json.max_input_chars_per_word !== undefined) return "WordPiece";
  return Array.isArray(json.vocab) ? "Unigram" : "WordLevel";
}

function openWordLevel(json: ComponentJson): TokenModel {
  const { unk_token } = settings(json, "model", { unk_token: text });
  const vocabulary = Vocabulary.read(json.vocab, "model.vocab");
  const unknown = vocabulary.idOf(unk_token);
  if (unknown === undefined) throw invalid("model.unk_token", `${JSON.stringify(unk_token)} is not in the vocabulary`);
  return { vocabulary, encode: (word) => [vocabulary.idOf(word) ?? unknown] };
}

/** WordPiece: repeatedly takes the longest matching token; all but the first have the continuation prefix. */
function openWordPiece(json: ComponentJson): TokenModel {
  const { unk_token, continuing_subword_prefix, max_input_chars_per_word } = settings(json, "model", {
    unk_token: text,
    continuing_subword_prefix: text,
    max_input_chars_per_word: z.int().min(0),
  });
  const vocabulary = Vocabulary.read(json.vocab, "model.vocab");
  const unknown = vocabulary.idOf(unk_token);
  if (unknown === undefined) throw invalid("model.unk_token", `${JSON.stringify(unk_token)} is not in the vocabulary`);
  const longest = Object.keys(json.vocab as object).reduce((length, token) => Math.max(length, token.length), 0);
  const encode = (word: string): number[] => {
    const characters = [...word];
    if (characters.length > max_input_chars_per_word) return [unknown];
    const ids: number[] = [];
    for (let start = 0; start < characters.length; ) {
      let end = Math.min(characters.length, start + longest);
      let id: number | undefined;
      for (; end > start; end--) {
        const part = characters.slice(start, end).join("");
        id = vocabulary.idOf(start > 0 ? continuing_subword_prefix + part : part);
        if (id !== undefined) break;
      }
      if (id === undefined) return [unknown];
      ids.push(id);
      start = end;
    }
    return ids;
  };
  return { vocabulary, encode };
}
