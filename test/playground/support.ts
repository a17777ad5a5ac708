import { accessSync, constants } from "node:fs";
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core";
import { StableDiffCoder } from "../../lib/checkpoint/index.js";
import { Engine } from "../../lib/engine/index.js";
import { type CreateServerOptions, Server } from "../../lib/server/index.js";
import * as torch from "../../lib/torch/index.js";

const PLACES = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];

/** Where a Chromium is on this machine; undefined: nowhere. CHROMIUM names one elsewhere. */
export const chromiumPath: string | undefined = [process.env.CHROMIUM, ...PLACES].find((path) => {
  try {
    if (path) accessSync(path, constants.X_OK);
    return path !== undefined;
  } catch {
    return false;
  }
});

export function launch(): Promise<Browser> {
  return chromium.launch({ executablePath: chromiumPath, args: ["--no-sandbox"] });
}

/** A small random model whose predictions differ from place to place, behind a real server. */
export async function serve(
  options: CreateServerOptions = {},
): Promise<{ url: string; server: Server; engine: Engine; close(): Promise<void> }> {
  torch.setNumThreads(1);
  const coder = StableDiffCoder.fromConfig(
    {
      vocabSize: 4096,
      hiddenSize: 32,
      intermediateSize: 64,
      numLayers: 1,
      numHeads: 2,
      numKeyValueHeads: 1,
      maxPositionEmbeddings: 2048,
      maskTokenId: 5,
      initializerRange: 0.5,
    },
    { seed: 11, tokenizer: "assets/tokenizer" },
  );
  const engine = await Engine.create({ model: coder, worker: "none" });
  const server = Server.create(engine, { port: 0, logLevel: "silent", ...options }, "tiny-random");
  const url = await server.listen();
  return {
    url,
    server,
    engine,
    async close() {
      await server.close({ drain: 0 });
      await engine.close();
      coder[Symbol.dispose]();
    },
  };
}

/** What a page must not do, and what it did. */
export interface Watched {
  page: Page;
  /** Addresses outside the server. */
  strangers: string[];
  /** Violations of the policy, errors of scripts and of the console. */
  complaints: string[];
  close(): Promise<void>;
}

const REPORT_VIOLATIONS =
  'addEventListener("securitypolicyviolation", (event) => console.error("policy: " + event.violatedDirective + " " + event.blockedURI));';

/**
 * A page that is watched from before its first request.
 *
 * @param script runs before the page's own
 */
export async function open(
  browser: Browser,
  url: string,
  options: BrowserContextOptions = {},
  script = "",
): Promise<Watched> {
  const { origin } = new URL(url);
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  await context.addInitScript(REPORT_VIOLATIONS + script);
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  const strangers: string[] = [];
  const complaints: string[] = [];
  context.on("request", (request) => {
    const address = new URL(request.url());
    if (address.origin !== origin) strangers.push(request.url());
  });
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("console", (message) => {
    // Chromium reports each answer of 400 and more; those are what some tests ask for.
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) {
      complaints.push(message.text());
    }
  });
  await page.goto(url);
  return { page, strangers, complaints, close: () => context.close() };
}

/** The address of the page with settings in its hash. */
export function withSettings(url: string, settings: Record<string, string | number>): string {
  const entries = Object.entries(settings).map(([key, value]): [string, string] => [key, String(value)]);
  return `${url}/#${new URLSearchParams(entries)}`;
}
