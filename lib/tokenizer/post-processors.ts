import * as z from "zod";
import { type ComponentJson, invalid, sequenceOf, settings, text, unsupported } from "./component.js";

/** The ids around those of a text, and the position of the text. */
export type Frame = readonly (number | "text")[];

const tokenId = z
  .int()
  .min(0)
  .max(2 ** 32 - 1);
const pair = z.tuple([text, tokenId]);
const typeId = z.int().min(0);
const piece = z.union([
  z.strictObject({ Sequence: z.object({ id: z.enum(["A", "B"]), type_id: typeId }) }),
  z.strictObject({ SpecialToken: z.object({ id: text, type_id: typeId }) }),
]);

/**
 * Opens the post-processor of tokenizer.json, for the ids of a single text.
 *
 * @throws ComponentError for an unknown post-processor or invalid settings
 */
export function openPostProcessor(json: ComponentJson | null, place = "post_processor"): Frame {
  switch (json?.type) {
    case undefined:
      if (json === null) return ["text"];
      break;
    case "ByteLevel": // trims offsets, which are not computed here
      settings(json as ComponentJson, place, { add_prefix_space: z.boolean(), trim_offsets: z.boolean() });
      return ["text"];
    case "BertProcessing":
    case "RobertaProcessing": {
      const { cls, sep } = settings(json as ComponentJson, place, { cls: pair, sep: pair });
      return [cls[1], "text", sep[1]];
    }
    case "TemplateProcessing":
      return template(json as ComponentJson, place);
    case "Sequence": {
      const frames = sequenceOf(json as ComponentJson, place, "processors").map(([item, at]) =>
        openPostProcessor(item, at),
      );
      const framing = frames.filter((frame) => frame.length !== 1 || frame[0] !== "text");
      if (framing.length > 1) throw unsupported(place, "more than one processor that adds tokens is not supported");
      return framing[0] ?? ["text"];
    }
  }
  throw unsupported(place, `the post-processor ${JSON.stringify(json?.type)} is not supported`);
}

function template(json: ComponentJson, place: string): Frame {
  const special = z.object({ id: text, ids: z.array(tokenId), tokens: z.array(text) });
  const { single, special_tokens: tokens } = settings(json, place, {
    single: z.array(piece),
    pair: z.array(piece),
    special_tokens: z.record(z.string(), special),
  });
  return single.flatMap((one): Frame => {
    if ("Sequence" in one) {
      if (one.Sequence.id === "B") throw unsupported(`${place}.single`, "a second text in it is not supported");
      return ["text"];
    }
    const known = Object.hasOwn(tokens, one.SpecialToken.id) ? tokens[one.SpecialToken.id] : undefined;
    if (!known) throw invalid(`${place}.single`, `special_tokens lacks ${JSON.stringify(one.SpecialToken.id)}`);
    return known.ids;
  });
}
