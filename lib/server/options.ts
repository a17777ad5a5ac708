import * as z from "zod";
import { parseOptions, ServerError } from "./errors.js";

const seconds = z
  .number()
  .min(0)
  .max(86_400 * 7);

/** White space around a key is not part of it: files and secrets end with a new line. */
const apiKey = z
  .string()
  .transform((key) => key.trim())
  .refine(isApiKey, { error: "an API key is one or more visible ASCII characters, without spaces" });

/** Whether a text can be sent as a key in a header. */
export function isApiKey(text: string): boolean {
  return /^[\x21-\x7e]+$/.test(text);
}

/** Options of {@link Server.create}. Durations are in seconds. */
export const serverOptionsSchema = z.strictObject({
  host: z.string().min(1).default("127.0.0.1").describe("address to listen at"),
  port: z.number().int().min(0).max(65_535).default(8000).describe("0: any free one"),
  modelNames: z
    .array(z.string().min(1))
    .default([])
    .describe("names clients call the model by; else its folder's name"),
  apiKeys: z.array(apiKey).default([]).describe("one of these is needed for everything but /health"),
  apiKeyFile: z.string().optional().describe("one key a line; read again when it changes"),
  sharedPrefixCache: z.boolean().default(false).describe("one prefix cache for all API keys; else each has its own"),
  insecure: z.boolean().default(false).describe("without keys also on addresses that others reach"),
  strict: z.boolean().default(false).describe("refuse fields that are not known; else they are named in a header"),
  temperature: z.number().min(0).max(100).default(0).describe("of requests that name none, as the published sampler"),
  maxTokensLimit: z.number().int().min(1).optional().describe("most tokens of one choice; by default the context"),
  maxChoices: z.number().int().min(1).max(1024).default(64).describe("prompts times n of one request"),
  uploadTimeout: seconds.default(30).describe("a client may take to send a request; 0: for ever"),
  promptTimeout: seconds.default(10).describe("reading a prompt by template and tokenizer may take; 0: for ever"),
  sendTimeout: seconds.default(60).describe("a client may leave unread what is ready for it; 0: for ever"),
  idleTimeout: seconds.default(75).describe("a connection may be kept without a request; 0: for ever"),
  maxConnections: z
    .number()
    .int()
    .min(1)
    .max(1_000_000)
    .default(1024)
    .describe("the longest idle gives way to a new one"),
  shutdownTimeout: seconds.default(30).describe("running requests may go on after the order to stop"),
  keepAlive: seconds.default(15).describe("between comments in a silent stream; 0: none"),
  bodyLimit: z
    .number()
    .int()
    .min(1024)
    .max(2 ** 30)
    .default(4 * 2 ** 20)
    .describe("bytes"),
  uploadLimit: z
    .number()
    .int()
    .min(1024)
    .max(2 ** 40)
    .default(64 * 2 ** 20)
    .describe("bytes of the bodies of all requests that are not over, 64 KiB of each not counted"),
  headerLimit: z
    .number()
    .int()
    .min(1024)
    .max(2 ** 20)
    .default(16 * 2 ** 10)
    .describe("bytes"),
  corsOrigins: z.array(z.string().min(1)).default([]).describe('"*": every page; by default none but our own'),
  tls: z.strictObject({ key: z.string(), cert: z.string() }).optional().describe("PEM files; read again when changed"),
  logLevel: z
    .enum(["fatal", "error", "warn", "info", "debug", "trace", "silent"])
    .default("info")
    .describe("least severity that is logged"),
  page: z.boolean().default(true).describe("serve the playground at /"),
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
      `without an API key the server listens on this machine only, and ${settings.host} can be reached from outside; ` +
        "give a key (--api-key, --api-key-file), or --insecure if something else keeps strangers out",
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
