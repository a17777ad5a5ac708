import { readFileSync } from "node:fs";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { chromiumPath, launch, open } from "./support.js";

const TOKENS = 2000;
const PASSES = 500;

/** A run as long as the page is made for, sent as fast as it can be taken: four tokens a pass, blocks of 16. */
function longRun(): object[] {
  const events: object[] = [];
  for (let pass = 0; pass < PASSES; pass++) events.push(fourTokens(pass));
  events.push({ choices: [{ index: 0, text: "all of it", finish_reason: "length" }] });
  events.push({ choices: [], usage: { prompt_tokens: 10, completion_tokens: TOKENS } });
  return events;
}

function fourTokens(pass: number): object {
  const block = Math.floor(pass / 4);
  const start = 10 + 16 * block;
  const top_logprobs = ["a", "b", "c", "d", "e"].map((text, rank) => ({ id: rank, text, logprob: -rank - 0.1 }));
  const committed = [0, 1, 2, 3].map((i) => {
    const position = start + 4 * i + (pass % 4);
    return { position, id: position, text: ` t${position}`, logprob: -((position * 7) % 20) / 10, top_logprobs };
  });
  const dllm = { index: 0, block, step: pass % 4, start, end: start + 16, masks_left: 12 - 4 * (pass % 4), committed };
  return { choices: [{ index: 0, text: "", finish_reason: null }], dllm };
}

function stream(response: ServerResponse, events: object[], end = "data: [DONE]\n\n"): void {
  response.setHeader("content-type", "text/event-stream");
  response.end(events.map((each) => `data: ${JSON.stringify(each)}\n\n`).join("") + end);
}

const TYPES: Record<string, string> = {
  html: "text/html",
  js: "text/javascript",
  css: "text/css",
  svg: "image/svg+xml",
};

/** What the engine does not do on demand: runs of a certain length, and every way to fail. */
describe.skipIf(!chromiumPath)("the page in Chromium, against recorded streams", () => {
  let browser: Browser;
  let url: string;
  let answer: (response: ServerResponse) => void;
  let models = {};
  /** How often the models are not told yet. */
  let unready = 0;
  const server = createServer((request, response) => {
    const path = new URL(request.url ?? "/", "http://localhost").pathname;
    if (path === "/v1/completions") answer(response);
    else if (path === "/v1/models" && unready-- > 0) response.writeHead(503, { "retry-after": "1" }).end();
    else if (path === "/v1/models") response.setHeader("content-type", "application/json").end(JSON.stringify(models));
    else {
      const name = path === "/" ? "index.html" : path.slice(1);
      response.setHeader("content-type", TYPES[name.split(".").at(-1) ?? ""] ?? "text/plain");
      response.end(readFileSync(`assets/playground/${name}`));
    }
  });

  beforeAll(async () => {
    browser = await launch();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
    models = { data: [{ id: "tape", dllm: { block_size: 16, chat: false, infill: true } }] };
  });
  afterAll(async () => {
    await browser?.close();
    server.close();
  });

  test(`${TOKENS} tokens in ${PASSES} passes stall neither the page nor its scrubber`, async () => {
    answer = (response) => stream(response, longRun());
    const { page, close } = await open(browser, `${url}#maxTokens=${TOKENS}`);
    await page.getByText("tape").waitFor();
    // What a reader would feel: the longest time between two frames.
    await page.evaluate(`
      globalThis.longest = 0;
      let last = performance.now();
      requestAnimationFrame(function frame(now) {
        globalThis.longest = Math.max(globalThis.longest, now - last);
        last = now;
        requestAnimationFrame(frame);
      });`);
    await page.getByRole("button", { name: "Run" }).click();
    await page.locator("[data-state=done]").waitFor();
    expect(await page.locator(".tokens .t").count()).toBe(TOKENS);
    expect(await page.locator(".tokens .mask, .tokens .later").count()).toBe(0);
    const slider = page.getByRole("slider", { name: "Pass" });
    for (const pass of [0, PASSES, 250, 1, 499]) {
      await slider.fill(String(pass));
      await page.locator(`[data-pass='${pass}']`).waitFor();
      expect(await page.locator(".tokens .mask, .tokens .later").count()).toBe(TOKENS - 4 * pass);
    }
    const longest = await page.evaluate<number>("globalThis.longest");
    // 0.1 s where the machine does nothing else; other work may take the processor away for a while.
    expect(longest).toBeLessThan(2000);
    await close();
  });

  test("an error inside the stream is shown, with what came before it", async () => {
    const error = { message: "the engine's worker died", type: "server_error", param: null, code: "engine_failed" };
    answer = (response) => stream(response, [fourTokens(0), fourTokens(1), { error }]);
    const { page, close } = await open(browser, `${url}#maxTokens=32`);
    await page.getByRole("button", { name: "Run" }).click();
    const run = page.locator("[data-state=failed]");
    const alert = await run.getByRole("alert").textContent();
    expect(alert).toContain("engine_failed");
    expect(alert).toContain(error.message);
    expect(await run.locator(".tokens .t:not(.mask, .later)").count()).toBe(8);
    await close();
  });

  test("a stream that breaks off is no finished run", async () => {
    answer = (response) => stream(response, [fourTokens(0)], "");
    const { page, close } = await open(browser, `${url}#maxTokens=32`);
    await page.getByRole("button", { name: "Run" }).click();
    expect(await page.locator("[data-state=failed]").getByRole("alert").textContent()).toContain("ended before");
    await close();
  });

  test("a full queue says when to try again, and the next try works", async () => {
    answer = (response) => {
      response.writeHead(503, { "retry-after": "3", "content-type": "application/json" });
      response.end(
        '{"error":{"message":"the queue is full","type":"overloaded_error","param":null,"code":"queue_full"}}',
      );
    };
    const { page, close } = await open(browser, `${url}#maxTokens=32`);
    await page.getByRole("button", { name: "Run" }).click();
    const alert = await page.locator("[data-state=failed]").getByRole("alert").textContent();
    expect(alert).toContain("the queue is full");
    expect(alert).toContain("Try again in 3 s.");
    answer = (response) => stream(response, [fourTokens(0), { choices: [{ text: "x", finish_reason: "stop" }] }]);
    await page.getByRole("button", { name: "Run" }).click();
    await page.locator("[data-state=done]").waitFor();
    expect(await page.getByRole("alert").count()).toBe(0);
    await close();
  });

  test("what the model cannot do is not offered", async () => {
    const { page, close } = await open(browser, url);
    await page.getByText("tape").waitFor();
    expect(await page.getByRole("radio", { name: "Chat" }).isDisabled()).toBe(true);
    expect(await page.getByRole("radio", { name: "Infill" }).isDisabled()).toBe(false);
    expect(await page.getByRole("textbox", { name: "Block size" }).getAttribute("placeholder")).toBe("16");
    await close();
  });

  test("a server that is not ready is asked again", async () => {
    unready = 1;
    const { page, close } = await open(browser, url);
    await page.getByRole("alert").getByText("503").waitFor();
    await page.getByText("tape").waitFor();
    expect(await page.getByRole("alert").count()).toBe(0);
    await close();
  });

  test("where the browser forbids storage the page works all the same", async () => {
    answer = (response) => stream(response, [fourTokens(0), { choices: [{ text: "x", finish_reason: "stop" }] }]);
    const forbidden = `for (const each of ["localStorage", "sessionStorage"]) {
      Object.defineProperty(globalThis, each, { get() { throw new DOMException("no", "SecurityError"); } });
    }`;
    const { page, complaints, close } = await open(browser, url, {}, forbidden);
    await page.getByText("tape").waitFor();
    await page.getByRole("button", { name: /Switch to the/ }).click();
    await page.getByRole("button", { name: "Run" }).click();
    await page.locator("[data-state=done]").waitFor();
    expect(complaints).toEqual([]);
    await close();
  });

  test("the page's policy is in force, whatever its server sends", async () => {
    const { page, complaints, close } = await open(browser, url);
    await page.evaluate(`document.body.insertAdjacentHTML("beforeend", "<p style='color: red'>x</p>")`);
    await page.evaluate(`fetch("http://127.0.0.2:9/").catch(() => {})`);
    await expect.poll(() => complaints.join("\n")).toMatch(/policy: style-src-attr[\s\S]*policy: connect-src/);
    await close();
  });
});
