import { basename, resolve } from "node:path";
import { Engine, type ModelInfo } from "../../engine/index.js";
import { LogOutput, Server } from "../../server/index.js";
import { compact } from "../../train/format.js";
import type { ServeOptions } from "../command-options.js";
import { CliError } from "../errors.js";

/**
 * Serves until SIGTERM or SIGINT, then waits for running requests. The server listens before the model is loaded, so
 * that probes can reach a starting process.
 */
export async function serve(folder: string, options: ServeOptions): Promise<void> {
  ignoreLostReaders();
  let ready: (engine: Engine) => void = () => {};
  const loading = new Promise<Engine>((done) => {
    ready = done;
  });
  const server = Server.create(loading, options.server, basename(resolve(folder)));
  using signals = new StopSignals();
  const url = await server.listen();
  let engine: Engine | undefined;
  try {
    const created = Engine.create({ model: folder, ...options.engine });
    const first = await Promise.race([created, signals.first]);
    if (typeof first === "string") {
      // The signal arrived before the model was loaded.
      void created.then((late) => late.close()).catch(() => {});
      return;
    }
    engine = first;
    if (!engine.tokenizer) throw new CliError(`cannot serve ${folder}: it has no tokenizer.json`);
    ready(engine);
    say(`${describe(server, url, engine.model)}\n`);
    const signal = await signals.first;
    const { open } = server;
    const waits = open > 0 ? `; ${open} running, at most ${server.settings.shutdownTimeout} s more` : "";
    say(`${signal}: stopping${waits} (press Ctrl-C again to exit immediately)\n`);
    signals.onAgain = () => server.hurry();
    await server.close();
  } finally {
    await server.close({ drain: 0 });
    await engine?.close();
  }
}

/**
 * The server must not depend on its log or terminal: a closed pipe is not an error, and writes do not wait for a
 * reader.
 */
function ignoreLostReaders(): void {
  for (const stream of [process.stdout, process.stderr]) stream.removeAllListeners("error").on("error", () => {});
}

let people: LogOutput | undefined;

/** Prints to standard error: standard output is the log. */
function say(text: string): void {
  people ??= new LogOutput(2);
  people.write(text);
}

function describe(server: Server, url: string, model: ModelInfo): string {
  const { insecure, page } = server.settings;
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
        ? "no API key: open to every client that can reach it (--insecure)"
        : "no API key: open to every program on this machine";
  return [
    `serving   ${server.modelNames.join(", ")} (${facts}; ${can.join(", ")})`,
    `API       ${url}/v1   document ${url}/openapi.json   metrics ${url}/metrics`,
    ...(page ? [`page      ${url}/`] : []),
    `access    ${keys}`,
  ].join("\n");
}

/**
 * Waits for SIGTERM or SIGINT, and reports later signals. Only a command may do this: a library that handles signals
 * would prevent the program from doing so.
 */
export class StopSignals {
  readonly first: Promise<NodeJS.Signals>;
  /** Called at each signal after the first. */
  onAgain: () => void = () => {};
  readonly #onSignal: (signal: NodeJS.Signals) => void;

  constructor() {
    let resolve: (signal: NodeJS.Signals) => void;
    let received = false;
    this.first = new Promise((done) => {
      resolve = done;
    });
    this.#onSignal = (signal) => {
      if (received) this.onAgain();
      received = true;
      resolve(signal);
    };
    process.on("SIGTERM", this.#onSignal).on("SIGINT", this.#onSignal);
  }

  [Symbol.dispose](): void {
    process.off("SIGTERM", this.#onSignal).off("SIGINT", this.#onSignal);
  }
}
