import * as z from "zod";

/** A part of a message's content that is text. */
export type ContentPart = { type: "text"; text: string } | { type: "refusal"; refusal: string };
export type Content = string | ContentPart[];

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** What is wrong with a content, in words; undefined: nothing. Parts may hold more than is read (`cache_control`). */
function contentFault(content: unknown): string | undefined {
  if (typeof content === "string") return undefined;
  if (!Array.isArray(content)) return 'expected a string or parts of type "text"';
  for (const [i, part] of content.entries()) {
    const type = isObject(part) ? part.type : undefined;
    if (type !== "text" && type !== "refusal") {
      const what = typeof type === "string" ? `parts of type ${JSON.stringify(type.slice(0, 64))} are` : "this is";
      return `part ${i}: ${what} not supported, only parts of type "text", and "refusal" of assistants`;
    }
    if (typeof (part as Record<string, unknown>)[type] !== "string") {
      return `part ${i}: a part of type "${type}" needs a string "${type}"`;
    }
  }
  return undefined;
}

const partSchema = (type: string) => ({
  type: "object",
  required: ["type", type],
  properties: { type: { const: type }, [type]: { type: "string" } },
});

const contentSchema = z
  .custom<Content>((content) => contentFault(content) === undefined, { error: ({ input }) => contentFault(input) })
  .meta({
    anyOf: [{ type: "string" }, { type: "array", items: { anyOf: [partSchema("text"), partSchema("refusal")] } }],
  });

/** Who may say nothing: an assistant that calls tools, and the old form of a tool's result. */
const MAY_BE_EMPTY: ReadonlySet<string> = new Set(["assistant", "function"]);

/** A message of a conversation. What else it holds goes to the model's template. */
export const messageSchema = z
  .looseObject({
    role: z.enum(["system", "developer", "user", "assistant", "tool", "function"]),
    content: contentSchema.nullish(),
    name: z.string().nullish(),
    refusal: z.string().nullish(),
    tool_calls: z.array(z.looseObject({})).nullish(),
    tool_call_id: z.string().nullish(),
    function_call: z.looseObject({}).nullish(),
    audio: z.null({ error: "audio is not supported" }).optional(),
  })
  .superRefine(({ role, content }, { addIssue }) => {
    const fault = (message: string) => addIssue({ code: "custom", path: ["content"], message });
    if (content == null) {
      if (!MAY_BE_EMPTY.has(role)) fault(`a message of the role "${role}" needs a content`);
    } else if (role !== "assistant" && Array.isArray(content) && content.some(({ type }) => type === "refusal")) {
      fault('parts of type "refusal" are for assistants only');
    }
  });
export type Message = z.output<typeof messageSchema>;

/** A message's content as text, its parts one after the other; a refusal is what an assistant said. */
export function textOf({ content, refusal }: Message): string {
  if (typeof content === "string") return content;
  if (!content) return refusal ?? "";
  return content.map((part) => (part.type === "text" ? part.text : part.refusal)).join("");
}
