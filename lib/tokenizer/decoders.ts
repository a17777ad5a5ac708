import { TextDecoder } from "node:util";
import * as z from "zod";
import { bytesOfToken } from "./code-points.js";
import {
  type ComponentJson,
  character,
  componentPattern,
  patternJson,
  sequenceOf,
  settings,
  text,
  unsupported,
} from "./component.js";
import { metaspaceSettings } from "./pre-tokenizers.js";

/** Converts the tokens of a text to pieces of text, which are then concatenated. */
export type Decoder = (tokens: string[]) => string[];

/**
 * Opens the decoder of tokenizer.json. Without one, tokens are joined by spaces.
 *
 * @throws ComponentError for an unknown component or invalid settings
 */
export function openDecoder(json: ComponentJson | null, place = "decoder"): Decoder {
  if (json === null) return (tokens) => [tokens.join(" ")];
  switch (json.type) {
    case "ByteLevel":
      settings(json, place, { add_prefix_space: z.boolean(), trim_offsets: z.boolean() });
      return (tokens) => [new TextDecoder("utf-8", { ignoreBOM: true }).decode(joinBytes(tokens.map(bytesOfToken)))];
    case "ByteFallback":
      return byteFallback;
    case "Fuse":
      return (tokens) => [tokens.join("")];
    case "Metaspace": {
      const { replacement, prepend_scheme } = settings(json, place, metaspaceSettings);
      const drops = prepend_scheme !== "never";
      return (tokens) => tokens.map((token, i) => token.replaceAll(replacement, i === 0 && drops ? "" : " "));
    }
    case "Replace": {
      const { pattern, content } = settings(json, place, { pattern: patternJson, content: text });
      const find = componentPattern(pattern, place);
      const replace = (token: string) =>
        find(token)
          .map(([start, end, isMatch]) => (isMatch ? content : token.slice(start, end)))
          .join("");
      return (tokens) => tokens.map(replace);
    }
    case "Strip": {
      const count = z.int().min(0);
      const { content, start, stop } = settings(json, place, { content: character, start: count, stop: count });
      return (tokens) => tokens.map((token) => strip(token, content, start, stop));
    }
    case "BPEDecoder": {
      const { suffix } = settings(json, place, { suffix: text });
      const replace = (token: string, by: string) => (suffix === "" ? spread(token, by) : token.replaceAll(suffix, by));
      return (tokens) => tokens.map((token, i) => replace(token, i === tokens.length - 1 ? "" : " "));
    }
    case "WordPiece": {
      const { prefix, cleanup } = settings(json, place, { prefix: text, cleanup: z.boolean() });
      return (tokens) =>
        tokens.map((token, i) => {
          let piece = token;
          if (i > 0) piece = token.startsWith(prefix) ? token.slice(prefix.length) : ` ${token}`;
          return cleanup ? tidy(piece) : piece;
        });
    }
    case "CTC":
      return ctc(json, place);
    case "Sequence": {
      const stages = sequenceOf(json, place, "decoders").map(([item, at]) => openDecoder(item, at));
      return (tokens) => stages.reduce((current, stage) => stage(current), tokens);
    }
    default:
      throw unsupported(place, `the decoder ${JSON.stringify(json.type)} is not supported`);
  }
}

/**
 * Which tokens may change their text depending on the tokens that follow: none; byte tokens (several form one
 * character); or any token, because the decoder makes replacements in the text as a whole.
 */
export function changesOf(json: ComponentJson | null): "none" | "bytes" | "any" {
  const stages = flatten(json).map((stage) => stage.type);
  const joined = stages.findIndex((type) => type === "Fuse" || type === "ByteLevel");
  const later = joined < 0 ? [] : stages.slice(joined + 1);
  if (later.some((type) => type !== "Strip" && type !== "Fuse" && type !== "Metaspace")) return "any";
  return stages.includes("ByteFallback") ? "bytes" : "none";
}

function flatten(json: ComponentJson | null): ComponentJson[] {
  if (json?.type !== "Sequence") return json ? [json] : [];
  return sequenceOf(json, "decoder", "decoders").flatMap(([item]) => flatten(item));
}

/** The byte of a token such as "<0x0A>", undefined for any other token. */
export function byteOfFallback(token: string): number | undefined {
  const byte = /^<0x([0-9A-Fa-f]{2}|\+[0-9A-Fa-f])>$/.exec(token);
  return byte ? Number.parseInt(byte[1], 16) : undefined;
}

export function joinBytes(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let end = 0;
  for (const part of parts) {
    bytes.set(part, end);
    end += part.length;
  }
  return bytes;
}

/** Converts runs of byte tokens to text, or to one U+FFFD per byte if a run is not valid UTF-8. */
function byteFallback(tokens: string[]): string[] {
  const pieces: string[] = [];
  let run: number[] = [];
  const end = () => {
    if (run.length === 0) return;
    try {
      pieces.push(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(run)));
    } catch {
      for (const _ of run) pieces.push("\ufffd");
    }
    run = [];
  };
  for (const token of tokens) {
    const byte = byteOfFallback(token);
    if (byte !== undefined) {
      run.push(byte);
      continue;
    }
    end();
    pieces.push(token);
  }
  end();
  return pieces;
}

function strip(token: string, content: string, start: number, stop: number): string {
  const characters = [...token];
  let from = 0;
  while (from < Math.min(start, characters.length) && characters[from] === content) from++;
  let to = characters.length;
  while (characters.length - to < stop && to > from && characters[to - 1] === content) to--;
  return characters.slice(from, to).join("");
}

/** Replaces an empty pattern, which in Rust matches before, between and after all characters. */
function spread(token: string, by: string): string {
  return by + Array.from(token, (one) => one + by).join("");
}

function tidy(piece: string): string {
  return piece
    .replaceAll(" .", ".")
    .replaceAll(" ?", "?")
    .replaceAll(" !", "!")
    .replaceAll(" ,", ",")
    .replaceAll(" ' ", "'")
    .replaceAll(" n't", "n't")
    .replaceAll(" 'm", "'m")
    .replaceAll(" do not", " don't")
    .replaceAll(" 's", "'s")
    .replaceAll(" 've", "'ve")
    .replaceAll(" 're", "'re");
}

function ctc(json: ComponentJson, place: string): Decoder {
  const { pad_token, word_delimiter_token, cleanup } = settings(json, place, {
    pad_token: text.refine((token) => token !== "", "empty"),
    word_delimiter_token: text.refine((token) => token !== "", "empty"),
    cleanup: z.boolean(),
  });
  return (tokens) =>
    tokens
      .filter((token, i) => i === 0 || token !== tokens[i - 1])
      .map((token) => {
        const piece = token.replaceAll(pad_token, "");
        return cleanup ? tidy(piece).replaceAll(word_delimiter_token, " ") : piece;
      })
      .filter((piece) => piece !== "");
}
