import { basename, resolve } from "node:path";
import { Engine, type ModelFacts } from "../../engine/index.js";
import { LogOutput, Server } from "../../server/index.js";
import { compact } from "../../train/format.js";
import { CliError } from "../errors.js";
import type { ServeOptions } from "../serve.js";
import { StopSignals } from "./signals.js";

/**
 * Serves until SIGTERM or SIGINT, then lets running requests end. The listener is open before the model is loaded, so
 * that probes see a process that starts.
 */
export async function serve(folder: string, options: ServeOptions): Promise<void> {
  if ((options.tlsKey === undefined) !== (options.tlsCert === undefined)) {
    throw new CliError("--tls-key and --tls-cert belong together");
  }
  letGoOfReaders();
  const { tlsKey, tlsCert } = options;
  let ready: (engine: Engine) => void = () => {};
  const loading = new Promise<Engine>((done) => {
    ready = done;
  });
  const server = Server.create(
    loading,
    {
      host: options.host,
      port: options.port,
      modelNames: options.servedModelName,
      page: options.page,
      temperature: options.temperature,
      maxTokensLimit: options.maxTokensLimit,
      apiKeys: options.apiKey,
      apiKeyFile: options.apiKeyFile,
      insecure: options.insecure,
      sharedPrefixCache: options.sharedPrefixCache,
      corsOrigins: options.corsOrigin,
      tls: tlsKey !== undefined && tlsCert !== undefined ? { key: tlsKey, cert: tlsCert } : undefined,
      uploadTimeout: options.uploadTimeout,
      promptTimeout: options.promptTimeout,
      uploadLimit: options.uploadLimit,
      sendTimeout: options.sendTimeout,
      idleTimeout: options.idleTimeout,
      maxConnections: options.maxConnections,
      shutdownTimeout: options.shutdownTimeout,
      keepAlive: options.keepAlive,
      bodyLimit: options.bodyLimit,
      maxChoices: options.maxChoices,
      strict: options.strict,
      logLevel: options.logLevel,
    },
    basename(resolve(folder)),
  );
  using signals = new StopSignals();
  const url = await server.listen();
  let engine: Engine | undefined;
  try {
    const created = createEngine(folder, options);
    const first = await Promise.race([created, signals.first]);
    if (typeof first === "string") {
      // The order to stop came before the model was there.
      void created.then((late) => late.close()).catch(() => {});
      return;
    }
    engine = first;
    if (!engine.tokenizer) throw new CliError(`cannot serve ${folder}: it has no tokenizer.json`);
    ready(engine);
    say(`${describe(server, url, engine.model, options)}\n`);
    const signal = await signals.first;
    const { open } = server;
    const waits = open > 0 ? `; ${open} running, at most ${options.shutdownTimeout} s more` : "";
    say(`${signal}: stopping${waits} (press Ctrl-C again to exit immediately)\n`);
    signals.onAgain = () => server.hurry();
    await server.close();
  } finally {
    await server.close({ drain: 0 });
    await engine?.close();
  }
}

function createEngine(model: string, options: ServeOptions): Promise<Engine> {
  return Engine.create({
    model,
    worker: options.worker,
    device: options.device,
    dtype: options.dtype,
    quantization: options.quantization,
    blockSize: options.blockSize,
    shift: options.shift,
    maxModelLen: options.maxModelLen,
    threads: options.threads,
    cacheTokens: options.cacheTokens,
    cacheBytes: options.cacheBytes,
    prefixCache: options.prefixCache,
    maxNumSeqs: options.maxNumSeqs,
    maxNumBatchedTokens: options.maxNumBatchedTokens,
    cudaGraphs: options.cudaGraphs,
    eventInterval: options.eventInterval,
    hangTimeout: options.hangTimeout,
    passTimeout: options.passTimeout,
    maxQueue: options.maxQueue,
    maxQueueTokens: options.maxQueueTokens,
    queueTimeout: options.queueTimeout,
    requestTimeout: options.requestTimeout,
  });
}

/** Neither log nor terminal may stop the server: a reader that is gone is not an error, one that does not read is not waited for. */
function letGoOfReaders(): void {
  for (const stream of [process.stdout, process.stderr]) stream.removeAllListeners("error").on("error", () => {});
}

let people: LogOutput | undefined;

/** To people; the log has standard output to itself. */
function say(text: string): void {
  people ??= new LogOutput(2);
  people.write(text);
}

function describe(server: Server, url: string, model: ModelFacts, { insecure, page }: ServeOptions): string {
  const weights = model.quantization ?? model.dtype;
  const facts = `${compact(model.parameters)} parameters, ${weights} on ${model.device}, context ${model.maxLength}`;
  const can = [
    ...(model.maskId === null ? ["token by token only"] : [`blocks of ${model.blockSize}`]),
    ...(model.hasChatTemplate ? ["chat"] : []),
    ...(model.hasFim ? ["infilling"] : []),
  ];
  const keys =
    server.keys > 0
      ? `${server.keys} API key${server.keys > 1 ? "s" : ""}`
      : insecure
        ? "open to everybody who reaches it (--insecure)"
        : "no API key: open to every program on this machine";
  return [
    `serving   ${server.modelNames.join(", ")} (${facts}; ${can.join(", ")})`,
    `API       ${url}/v1   document ${url}/openapi.json   metrics ${url}/metrics`,
    ...(page ? [`page      ${url}/`] : []),
    `access    ${keys}`,
  ].join("\n");
}
