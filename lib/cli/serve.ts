import { Command, Option } from "commander";
import { deviceOption, integer, port, real, renamedFlag, size } from "./options.js";

/** Options of `diffcoder serve`, as commander gives them. */
export interface ServeOptions {
  host: string;
  port: number;
  servedModelName?: string[];
  page: boolean;
  device: string;
  dtype: "auto" | "float32" | "bfloat16" | "float16";
  quantization?: "int8";
  blockSize?: number;
  shift?: boolean;
  maxModelLen?: number;
  threads?: number;
  worker: "thread" | "process";
  temperature: number;
  maxTokensLimit?: number;
  cacheTokens?: number;
  cacheBytes?: number;
  prefixCache: boolean;
  maxNumSeqs: number;
  maxNumBatchedTokens: number;
  cudaGraphs: boolean;
  eventInterval: number;
  apiKey?: string[];
  apiKeyFile?: string;
  insecure?: boolean;
  corsOrigin?: string[];
  tlsKey?: string;
  tlsCert?: string;
  maxQueue: number;
  maxQueueTokens: number;
  queueTimeout: number;
  requestTimeout: number;
  uploadTimeout: number;
  promptTimeout: number;
  uploadLimit: number;
  sendTimeout: number;
  idleTimeout: number;
  maxConnections: number;
  hangTimeout: number;
  passTimeout: number;
  sharedPrefixCache?: boolean;
  shutdownTimeout: number;
  keepAlive: number;
  bodyLimit: number;
  maxChoices: number;
  strict?: boolean;
  logLevel: "fatal" | "error" | "warn" | "info" | "debug" | "trace" | "silent";
}

const seconds = real(0, 86_400 * 7);
const several = (value: string, previous: string[] | undefined) => [...(previous ?? []), value];

/** Flags that had another name in 0.1.0. */
const RENAMED = [
  ["--max-running [n]", "--max-num-seqs"],
  ["--max-batch-tokens [n]", "--max-num-batched-tokens"],
  ["--max-length [n]", "--max-model-len"],
  ["--int8 [n]", "--quantization int8"],
] as const;

/** `diffcoder serve MODEL` */
export function serveCommand(): Command {
  const option = (flags: string, description: string) => new Option(flags, description);
  const groups: Record<string, Option[]> = {
    "Address:": [
      option("--host <address>", "where to listen; 0.0.0.0: on every address, which needs a key or --insecure").default(
        "127.0.0.1",
      ),
      option("-p, --port <n>", "where to listen; 0: any free one").argParser(port(0)).default(8000),
      option(
        "--served-model-name <name>",
        "what clients call the model; may be given more than once; default: the folder's name",
      ).argParser(several),
      option("--no-page", "do not serve the playground at /"),
    ],
    "Model:": [
      deviceOption("cpu"),
      option("--dtype <type>", "of the weights; auto: as saved")
        .choices(["auto", "float32", "bfloat16", "float16"])
        .default("auto"),
      option("--quantization <kind>", "weights and activations of matrices in int8 (W8A8), on the CPU").choices([
        "int8",
      ]),
      option(
        "-b, --block-size <n>",
        "tokens denoised together where a request does not say: as in training; default: 4",
      ).argParser(integer(1)),
      option("--shift", "the model was trained with the logit shift"),
      option(
        "--max-model-len <n>",
        "most tokens of prompt and output together; default: the model's context",
      ).argParser(integer(1)),
      option("--threads <n>", "processor threads of the model's operators").argParser(integer(1)),
      option("--worker <kind>", "where the model runs; the server survives a crash of a process")
        .choices(["thread", "process"])
        .default("process"),
      option("-t, --temperature <t>", "of requests that name none; 0: always the most likely token")
        .argParser(real(0, 100))
        .default(0),
      option("--max-tokens-limit <n>", "most tokens of one choice; default: the context").argParser(integer(1)),
    ],
    "Memory and batches:": [
      option("--cache-tokens <n>", "size of the KV cache in tokens; default: 8 contexts").argParser(integer(1)),
      option("--cache-bytes <size>", "size of the KV cache in bytes, such as 4GiB")
        .argParser(size)
        .conflicts("cacheTokens"),
      option("--no-prefix-cache", "disable prefix caching"),
      option(
        "--shared-prefix-cache",
        "share the prefix cache between API keys: clients can then find out what others have asked",
      ),
      option("--max-num-seqs <n>", "most sequences in one batch").argParser(integer(1)).default(64),
      option("--max-num-batched-tokens <n>", "most tokens in one forward pass").argParser(integer(1)).default(512),
      option(
        "--event-interval <ms>",
        "send the text of short forward passes together; maximum added latency; 0: send at once",
      )
        .argParser(real(0, 1000))
        .default(10),
      option("--no-cuda-graphs", "disable CUDA graphs"),
    ],
    "Access:": [
      option("--api-key <key>", "clients must send one; may be given more than once (seen in the list of processes)")
        .argParser(several)
        .env("DIFFCODER_API_KEY"),
      option("--api-key-file <path>", "one key a line; read again when it changes"),
      option("--insecure", "ask for no key, also on addresses that others reach"),
      option(
        "--cors-origin <origin>",
        "pages that may use the server, besides its own; * for all; repeatable",
      ).argParser(several),
      option("--tls-key <path>", "private key, PEM; read again when it changes"),
      option("--tls-cert <path>", "certificate, PEM, with what leads to its root"),
    ],
    "Limits:": [
      option("--max-queue <n>", "choices that may wait; more get 503").argParser(integer(1)).default(256),
      option("--max-queue-tokens <n>", "prompt tokens that may wait").argParser(integer(1)).default(1_000_000),
      option("--queue-timeout <s>", "longest wait; 0: for ever").argParser(seconds).default(60),
      option("--request-timeout <s>", "longest request; 0: for ever").argParser(seconds).default(600),
      option("--upload-timeout <s>", "longest time to send a request").argParser(seconds).default(30),
      option("--upload-limit <size>", "bytes of all requests that are not over; more get 503 (64 KiB of each are free)")
        .argParser(size)
        .default(64 * 2 ** 20, "64MiB"),
      option("--prompt-timeout <s>", "longest time to read a prompt by the model's template and tokenizer; 0: for ever")
        .argParser(seconds)
        .default(10),
      option("--send-timeout <s>", "longest time in which a client reads nothing of what is ready for it")
        .argParser(seconds)
        .default(60),
      option("--idle-timeout <s>", "longest time that a connection is kept without a request")
        .argParser(seconds)
        .default(75),
      option("--max-connections <n>", "open connections; a new one takes the place of the one idle for longest")
        .argParser(integer(1))
        .default(1024),
      option(
        "--hang-timeout <s>",
        "the engine's process is started again after so long without a sign of life; 0: never",
      )
        .argParser(seconds)
        .default(10),
      option("--pass-timeout <s>", "and after so long in one pass of the model; 0: never")
        .argParser(seconds)
        .default(600),
      option("--shutdown-timeout <s>", "running requests may go on for so long after SIGTERM")
        .argParser(seconds)
        .default(30),
      option("--keep-alive <s>", "time between comments in a silent stream; 0: none").argParser(seconds).default(15),
      option("--body-limit <size>", "largest request")
        .argParser(size)
        .default(4 * 2 ** 20, "4MiB"),
      option("--max-choices <n>", "most choices of one request: prompts times n").argParser(integer(1)).default(64),
      option("--strict", "refuse requests with fields that are not known"),
    ],
    "Log:": [
      option("--log-level <level>", "of the lines of JSON on standard output; they never hold prompts")
        .choices(["fatal", "error", "warn", "info", "debug", "trace", "silent"])
        .default("info"),
    ],
  };
  const command = new Command("serve")
    .summary("serve a checkpoint by OpenAI's protocol, with a page that shows it denoise")
    .description("Serves a checkpoint in Hugging Face layout by OpenAI's protocol, and a playground at /.")
    .argument("<model>", "the checkpoint's folder");
  for (const [title, options] of Object.entries(groups)) {
    for (const each of options) command.addOption(each.helpGroup(title));
  }
  for (const [flags, today] of RENAMED) command.addOption(renamedFlag(flags, today));
  return command.action(async (model: string, options: ServeOptions) => {
    const { serve } = await import("./serve/run.js");
    await serve(model, options);
  });
}
