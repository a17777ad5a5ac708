import * as z from "zod";
import { bytesSchema, fileSchema, portSchema, secondsSchema } from "../base/option-fields.js";
import { parseOptions, ServerError } from "./errors.js";

/** White space around a key is not part of it: files and secrets end with a new line. */
const apiKey = z
  .string()
  .transform((key) => key.trim())
  .refine(isApiKey, { error: "an API key is one or more visible ASCII characters, without spaces" });

/** Whether a text can be sent as a key in a header. */
export function isApiKey(text: string): boolean {
  return /^[\x21-\x7e]+$/.test(text);
}

/** Options of {@link Server.create}. Each is also a flag of `diffcoder serve` and a row of the table in docs/serving.md. */
export const serverOptionsSchema = z.strictObject({
  host: z
    .string()
    .min(1)
    .default("127.0.0.1")
    .describe("address to listen on; 0.0.0.0: every address, which requires an API key or `insecure`"),
  port: portSchema.min(0).default(8000).describe("port to listen on; 0: any free one"),
  servedModelNames: z
    .array(z.string().min(1))
    .default([])
    .describe("names by which clients call the model; default: its folder's name"),
  page: z.boolean().default(true).describe("serve the playground at /"),
  temperature: z
    .number()
    .min(0)
    .max(100)
    .default(0)
    .describe("sampling temperature where a request does not say; 0: always the most likely token"),
  maxTokensLimit: z
    .number()
    .int()
    .min(1)
    .optional()
    .describe("maximum number of tokens in one choice; default: the model's context"),
  maxChoices: z
    .number()
    .int()
    .min(1)
    .max(1024)
    .default(64)
    .describe("maximum number of choices in one request: prompts times n"),
  apiKeys: z
    .array(apiKey)
    .default([])
    .describe("keys, one of which a client must send, except for /health (visible in the process list)"),
  apiKeyFile: fileSchema.optional().describe("file with one API key per line; read again when it changes"),
  insecure: z.boolean().default(false).describe("require no API key, even on addresses that other machines can reach"),
  sharedPrefixCache: z
    .boolean()
    .default(false)
    .describe("share the prefix cache between API keys: clients can then find out what others have sent"),
  strict: z
    .boolean()
    .default(false)
    .describe("refuse requests with unknown fields; otherwise a header of the response lists them"),
  corsOrigins: z
    .array(z.string().min(1))
    .default([])
    .describe('origins of web pages that may use the server besides its own; "*": all'),
  tls: z
    .strictObject({
      key: fileSchema.describe("file of the private key (PEM); read again when it changes"),
      cert: fileSchema.describe("file of the certificate chain (PEM); read again when it changes"),
    })
    .optional()
    .describe("PEM files for HTTPS"),
  uploadTimeout: secondsSchema.default(30).describe("longest time to receive a request; 0: no limit"),
  promptTimeout: secondsSchema
    .default(10)
    .describe("longest time to process a prompt with the chat template and the tokenizer; 0: no limit"),
  sendTimeout: secondsSchema
    .default(60)
    .describe("longest time in which a client reads nothing of a response; 0: no limit"),
  idleTimeout: secondsSchema.default(75).describe("longest time that a connection is idle; 0: no limit"),
  shutdownTimeout: secondsSchema
    .default(30)
    .describe("longest time that running requests may take after the signal to stop"),
  keepAlive: secondsSchema.default(15).describe("interval of comments in a silent stream; 0: none"),
  maxConnections: z
    .number()
    .int()
    .min(1)
    .max(1_000_000)
    .default(1024)
    .describe("maximum number of open connections; a new one replaces the one that is idle for longest"),
  bodyLimit: bytesSchema
    .int()
    .min(1024)
    .max(2 ** 30)
    .default(4 * 2 ** 20)
    .describe("maximum size of a request's body"),
  uploadLimit: bytesSchema
    .int()
    .min(1024)
    .max(2 ** 40)
    .default(64 * 2 ** 20)
    .describe("maximum size of the bodies of all open requests together, not counting 64 KiB of each"),
  headerLimit: bytesSchema
    .int()
    .min(1024)
    .max(2 ** 20)
    .default(16 * 2 ** 10)
    .describe("maximum size of a request's headers"),
  logLevel: z
    .enum(["fatal", "error", "warn", "info", "debug", "trace", "silent"])
    .default("info")
    .describe("lowest severity that is logged, as lines of JSON on standard output; prompts are never logged"),
});
/** What users write. */
export type ServerOptions = z.input<typeof serverOptionsSchema>;
export type ServerSettings = z.output<typeof serverOptionsSchema>;

/** Options of the engine, which were the server's before its engine admitted requests. */
const ENGINE_OPTIONS = ["maxQueue", "maxQueueTokens", "queueTimeout", "requestTimeout"];

/**
 * Checks options.
 *
 * @throws ServerError SERVER_OPTIONS: a wrong key or value, or a server without keys that others could reach
 */
export function parseServerOptions(options: ServerOptions): ServerSettings {
  const moved = ENGINE_OPTIONS.filter((name) => name in options);
  if (moved.length > 0) {
    const [what, verb] = moved.length > 1 ? ["engine options", "are"] : ["an engine option", "is"];
    const message = `server options: ${moved.join(", ")} ${verb} ${what} now: Engine.create({ ${moved.join(", ")} })`;
    throw new ServerError("SERVER_OPTIONS", message);
  }
  const settings = parseOptions("server options", serverOptionsSchema, options);
  if (!hasKeys(settings) && !settings.insecure && !isLoopback(settings.host)) {
    throw new ServerError(
      "SERVER_OPTIONS",
      `without an API key the server listens on loopback addresses only, and other machines can reach ${settings.host}: ` +
        "pass a key (--api-key, --api-key-file), or --insecure if something else restricts access",
    );
  }
  return settings;
}

export function hasKeys({ apiKeys, apiKeyFile }: ServerSettings): boolean {
  return apiKeys.length > 0 || apiKeyFile !== undefined;
}

/** Whether an address, as an option or in a Host header, means this machine. */
export function isLoopback(host: string): boolean {
  return /^(localhost|127(\.\d+){3}|\[?::1\]?)$/i.test(host);
}
