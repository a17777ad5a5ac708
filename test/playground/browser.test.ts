import { readFileSync } from "node:fs";
import type { Browser, Locator, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { chromiumPath, launch, open, serve, type Watched, withSettings } from "./support.js";

if (!chromiumPath)
  console.warn("The playground is not tested: there is no Chromium (apt install chromium, or CHROMIUM=PATH).");

describe.skipIf(!chromiumPath)("the page in Chromium, against a real server", () => {
  let browser: Browser;
  let served: Awaited<ReturnType<typeof serve>>;
  const watched: Watched[] = [];

  beforeAll(async () => {
    [browser, served] = await Promise.all([launch(), serve()]);
  });
  afterEach(async () => {
    for (const each of watched.splice(0)) {
      expect(each.strangers).toEqual([]);
      expect(each.complaints).toEqual([]);
      await each.close();
    }
  });
  afterAll(async () => {
    await browser?.close();
    await served?.close();
  });

  async function visit(settings: Record<string, string | number>, options: Parameters<typeof open>[2] = {}) {
    const one = await open(browser, withSettings(served.url, settings), options);
    watched.push(one);
    return one.page;
  }
  const panel = (page: Page, name = "Diffusion") => page.getByRole("region", { name, exact: true });
  const state = (run: Locator, is: string) => run.and(run.page().locator(`[data-state=${is}]`)).waitFor();
  const run = (page: Page) => page.getByRole("button", { name: "Run" }).click();
  /** Classes and text of each cell of a canvas. */
  const cells = (run: Locator) => run.locator(".tokens .t").evaluateAll((all) => all.map((each) => each.className));
  const masked = (classes: string[]) => classes.filter((each) => /\b(mask|later)\b/.test(each)).length;

  test("a run fills the canvas with exactly the text that the API gives", async () => {
    const page = await visit({ prompt: "def main(", maxTokens: 24, blockSize: 8, rule: "static" });
    await page.getByText("tiny-random").waitFor();
    await run(page);
    const diffusion = panel(page);
    await state(diffusion, "done");
    const classes = await cells(diffusion);
    const answer = await fetch(`${served.url}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ prompt: "def main(", max_tokens: 24, logprobs: 0, dllm: { block_size: 8 } }),
    });
    const { choices, usage } = (await answer.json()) as {
      choices: { logprobs: { tokens: string[] } }[];
      usage: { completion_tokens: number };
    };
    const shown = await diffusion
      .locator(".tokens .t:not(.cut)")
      .evaluateAll((all) => all.map((each) => each.textContent ?? ""));
    expect(shown.slice(0, usage.completion_tokens)).toEqual(choices[0].logprobs.tokens);
    expect(masked(classes)).toBe(0);
    const counts = await diffusion.locator(".counts dd").allTextContents();
    expect(counts[1]).toBe(String(usage.completion_tokens));
    expect(Number(counts[2])).toBeCloseTo(usage.completion_tokens / Number(counts[0]), 2);
    expect(page.url()).toContain("blockSize=8");
  });

  test("the scrubber shows every earlier state; play goes on to the end", async () => {
    const page = await visit({ prompt: "import os", maxTokens: 16, blockSize: 4, rule: "static" });
    await run(page);
    const diffusion = panel(page);
    await state(diffusion, "done");
    const total = await diffusion.locator(".tokens .t").count();
    const slider = page.getByRole("slider", { name: "Pass" });
    const end = Number(await slider.getAttribute("max"));
    await slider.focus();
    await page.keyboard.press("Home");
    await diffusion.and(page.locator("[data-pass='0']")).waitFor();
    expect(masked(await cells(diffusion))).toBe(total);
    for (let pass = 1; pass <= 6; pass++) {
      await page.getByRole("button", { name: "Next pass" }).click();
      await diffusion.and(page.locator(`[data-pass='${pass}']`)).waitFor();
      expect(masked(await cells(diffusion))).toBe(total - pass); // static, one token a pass
      expect((await cells(diffusion)).filter((each) => /\bnew\b/.test(each))).toHaveLength(1);
    }
    await page.getByRole("button", { name: "Previous pass" }).click();
    await diffusion.and(page.locator("[data-pass='5']")).waitFor();
    expect(masked(await cells(diffusion))).toBe(total - 5);
    await page.getByRole("combobox", { name: "Passes per second" }).selectOption("100");
    await page.getByRole("button", { name: "Play" }).click();
    await diffusion.and(page.locator(`[data-pass='${end}']`)).waitFor();
    await page.getByRole("button", { name: "Play" }).waitFor(); // it stopped by itself
    expect(masked(await cells(diffusion))).toBe(0);
  });

  test("tokens tell their alternatives, by pointer and by keyboard", async () => {
    const page = await visit({ prompt: "x = ", maxTokens: 8, alternatives: 3 });
    await run(page);
    const diffusion = panel(page);
    await state(diffusion, "done");
    await diffusion.locator(".tokens .t").nth(2).hover();
    const listed = diffusion.locator(".inspector li");
    expect(await listed.count()).toBe(3);
    await expect.poll(() => diffusion.locator(".inspector").textContent()).toContain("%");
    const first = await diffusion.locator(".inspector p").textContent();
    await diffusion.locator(".canvas").focus();
    await page.keyboard.press("ArrowDown");
    await expect.poll(() => diffusion.locator(".inspector p").textContent()).not.toBe(first);
    expect(await diffusion.locator(".t.selected").count()).toBe(1);
  });

  test("AR beside diffusion: both fill, both are counted", async () => {
    const page = await visit({ prompt: "def f(", maxTokens: 16, decoder: "both", rule: "factor", factor: 50 });
    await run(page);
    const [left, right] = [panel(page), panel(page, "Autoregressive")];
    await state(left, "done");
    await state(right, "done");
    const counts = async (each: Locator) => (await each.locator(".counts dd").allTextContents()).map(Number.parseFloat);
    const [diffusion, ar] = [await counts(left), await counts(right)];
    expect(ar[0]).toBe(ar[1]); // a forward per token
    expect(diffusion[0]).toBeLessThan(diffusion[1]);
    expect(await page.getByRole("figure").count()).toBe(2);
    expect(await page.getByRole("img", { name: /Tokens committed/ }).count()).toBe(2);
  });

  test("infilling shows the text between what is given", async () => {
    const page = await visit({
      task: "infill",
      prefix: "def add(a, b):\n    ",
      suffix: "\n    return c\n",
      maxTokens: 8,
    });
    const asked = page.waitForRequest("**/v1/completions");
    await run(page);
    expect((await asked).postDataJSON()).toMatchObject({ prompt: "def add(a, b):\n    ", suffix: "\n    return c\n" });
    const diffusion = panel(page);
    await state(diffusion, "done");
    const text = await diffusion.locator(".canvas").textContent();
    expect(text?.startsWith("def add(a, b):\n    ")).toBe(true);
    expect(text?.endsWith("\n    return c\n")).toBe(true);
    expect(text?.length).toBeGreaterThan("def add(a, b):\n    \n    return c\n".length);
  });

  test("chat keeps the dialogue", async () => {
    const page = await visit({ task: "chat", message: "Say something.", maxTokens: 6 });
    await run(page);
    await state(panel(page), "done");
    const dialogue = page.getByRole("list", { name: "Dialogue so far" }).getByRole("listitem");
    await expect.poll(() => dialogue.count()).toBe(2);
    await page.getByRole("textbox", { name: "Message", exact: true }).fill("And more.");
    const asked = page.waitForRequest("**/v1/chat/completions");
    await run(page);
    const { messages } = (await asked).postDataJSON() as { messages: { role: string }[] };
    expect(messages.map(({ role }) => role)).toEqual(["user", "assistant", "user"]);
    await expect.poll(() => dialogue.count()).toBe(4);
  });

  test("what is typed during a chat run is the next message, and what was sent is cleared", async () => {
    const page = await visit({ task: "chat", message: "Say something.", maxTokens: 6 });
    let answer = () => {};
    const answered = new Promise<void>((done) => {
      answer = done;
    });
    await page.route("**/v1/chat/completions", async (route) => {
      await answered;
      await route.continue();
    });
    await run(page);
    const message = page.getByRole("textbox", { name: "Message", exact: true });
    await state(panel(page), "running");
    await message.fill("Typed meanwhile.");
    answer();
    const dialogue = page.getByRole("list", { name: "Dialogue so far" }).getByRole("listitem");
    await expect.poll(() => dialogue.count()).toBe(2);
    expect(await dialogue.first().textContent()).toContain("Say something.");
    expect(await message.inputValue()).toBe("Typed meanwhile.");
    await run(page);
    await expect.poll(() => dialogue.count()).toBe(4);
    expect(await message.inputValue()).toBe("");
  });

  test("cancel stops the server's work, and what came stays", async () => {
    const page = await visit({ prompt: "while True:", maxTokens: 1900, rule: "static", alternatives: 0 });
    await run(page);
    const diffusion = panel(page);
    await expect.poll(async () => Number(await page.getByRole("slider").getAttribute("max"))).toBeGreaterThan(3);
    expect(served.engine.stats().running).toBe(1);
    await page.getByRole("button", { name: "Cancel" }).click();
    await state(diffusion, "cancelled");
    await expect.poll(() => served.engine.stats().running).toBe(0);
    expect(await diffusion.locator(".tokens .h0, .tokens .h5").count()).toBeGreaterThan(0);
    expect(await page.getByRole("button", { name: "Run" }).isEnabled()).toBe(true);
  });

  test("errors are shown with the server's words", async () => {
    const page = await visit({ prompt: "x", maxTokens: 100_000 });
    await run(page);
    const alert = panel(page).getByRole("alert");
    await alert.waitFor();
    const answer = await fetch(`${served.url}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ prompt: "x", max_tokens: 100_000 }),
    });
    const { error } = (await answer.json()) as { error: { message: string; code: string } };
    expect(answer.status).toBe(400);
    expect(await alert.textContent()).toContain(error.code);
    expect(await alert.textContent()).toContain(error.message);
    await page.getByRole("textbox", { name: "Temperature" }).fill("hot");
    expect(await page.locator(".settings").getByRole("alert").textContent()).toContain("from 0 to 100");
  });

  test("a run can be had as JSON, copied, and its settings as an address", async () => {
    const page = await visit(
      { prompt: "a = 1", maxTokens: 8, temperature: 0.7, seed: 5 },
      { permissions: ["clipboard-read", "clipboard-write"] },
    );
    await run(page);
    await state(panel(page), "done");
    const download = page.waitForEvent("download");
    await page.getByRole("button", { name: "Save JSON" }).click();
    const saved = JSON.parse(readFileSync(await (await download).path(), "utf8")) as {
      format: string;
      text: string;
      passes: { committed: { id: number }[] }[];
    };
    expect(saved.format).toBe("diffcoder-run/1");
    expect(saved.passes.flatMap(({ committed }) => committed)).toHaveLength(8);
    await page.getByRole("button", { name: "Copy text" }).click();
    await page.getByRole("button", { name: "Copied" }).waitFor();
    expect(await page.evaluate("navigator.clipboard.readText()")).toBe(saved.text);
    await page.getByRole("button", { name: "Copy link" }).click();
    await expect.poll(() => page.evaluate("navigator.clipboard.readText()")).toContain("seed=5");
    expect(await page.evaluate("navigator.clipboard.readText()")).toContain("prompt=a+%3D+1");
  });

  test("by keyboard alone", async () => {
    const page = await visit({ maxTokens: 12, rule: "static" });
    await page.getByText("tiny-random").waitFor();
    const focused = () => page.evaluate<string>("document.activeElement.getAttribute('name') ?? ''");
    for (let i = 0; i < 8 && (await focused()) !== "prompt"; i++) await page.keyboard.press("Tab");
    expect(await focused()).toBe("prompt");
    await page.keyboard.type("for i in");
    await page.keyboard.press("Control+Enter");
    const diffusion = panel(page);
    await state(diffusion, "done");
    const end = Number(await diffusion.getAttribute("data-pass"));
    for (let i = 0; i < 12 && !(await diffusion.locator(".canvas:focus").count()); i++)
      await page.keyboard.press("Tab");
    expect(await diffusion.locator(".canvas:focus").count()).toBe(1);
    await page.keyboard.press("ArrowLeft");
    await page.keyboard.press("ArrowLeft");
    await diffusion.and(page.locator(`[data-pass='${end - 2}']`)).waitFor();
    await page.keyboard.press("ArrowRight");
    await diffusion.and(page.locator(`[data-pass='${end - 1}']`)).waitFor();
    await page.keyboard.press("ArrowUp");
    expect(await diffusion.locator(".t.selected").count()).toBe(1);
    // In a text field the arrows are the field's, and Escape still cancels.
    await page.getByRole("textbox", { name: "Max tokens" }).fill("1900");
    await page.keyboard.press("ArrowLeft");
    expect(await diffusion.getAttribute("data-pass")).toBe(String(end - 1));
    await page.keyboard.press("Control+Enter");
    await state(diffusion, "running");
    await page.keyboard.press("Escape");
    await state(diffusion, "cancelled");
  });

  test("dark and light, as the system says or as the reader chooses", async () => {
    const page = await visit({ maxTokens: 8 }, { colorScheme: "dark" });
    const brightness = () =>
      page.evaluate<number>("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])");
    expect(await brightness()).toBeLessThan(64);
    await page.getByRole("button", { name: "Switch to the light theme" }).click();
    expect(await brightness()).toBeGreaterThan(192);
    await page.reload();
    expect(await brightness()).toBeGreaterThan(192);
    await page.getByRole("button", { name: "Switch to the dark theme" }).click();
    expect(await brightness()).toBeLessThan(64);
  });

  test("on a phone nothing is wider than the screen", async () => {
    const page = await visit(
      { prompt: "def main(", maxTokens: 48, decoder: "both" },
      { viewport: { width: 380, height: 760 }, hasTouch: true, isMobile: true },
    );
    await run(page);
    await state(panel(page), "done");
    await state(panel(page, "Autoregressive"), "done");
    await page.getByText("Settings", { exact: true }).click();
    expect(await page.evaluate("document.documentElement.scrollWidth")).toBe(380);
    const wide = await page
      .locator("body *:not(svg *, option)")
      .evaluateAll((all) =>
        all.filter((each) => each.getBoundingClientRect().right > 381).map((each) => each.outerHTML),
      );
    expect(wide.map((each) => each.slice(0, 200))).toEqual([]);
    await panel(page).locator(".tokens .t").nth(1).tap();
    expect(await panel(page).locator(".inspector li").count()).toBeGreaterThan(0);
  });
});

describe.skipIf(!chromiumPath)("a server with API keys", () => {
  test("asks for one, keeps it for the tab only, and works with it", async () => {
    const [browser, served] = await Promise.all([launch(), serve({ apiKeys: ["open-sesame"] })]);
    try {
      const { page, complaints, strangers } = await open(
        browser,
        withSettings(served.url, { prompt: "x", maxTokens: 4 }),
      );
      const form = page.getByRole("form", { name: "API key" });
      await form.getByText("This server asks for an API key.").waitFor();
      await form.getByLabel("API key").fill("wrong");
      await page.keyboard.press("Enter");
      await form.getByText("not known").waitFor();
      await form.getByLabel("API key").fill("open-sesame");
      await page.keyboard.press("Enter");
      await page.getByText("tiny-random").waitFor();
      await page.getByRole("button", { name: "Run" }).click();
      await page.locator("[data-state=done]").waitFor();
      expect(await page.evaluate("Object.values(sessionStorage).join()")).toBe("open-sesame");
      expect(await page.evaluate("JSON.stringify([localStorage, document.cookie, location.href])")).not.toContain(
        "sesame",
      );
      expect([complaints, strangers]).toEqual([[], []]);
    } finally {
      await browser.close();
      await served.close();
    }
  });
});
