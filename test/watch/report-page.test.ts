import { join } from "node:path";
import { pathToFileURL } from "node:url";
import type { Browser, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { writeReport } from "../../lib/cli/report/run.js";
import { chromiumPath, launch } from "../playground/support.js";
import { eventsUpTo, temporaryFolder, writeLog } from "./support.js";

describe.skipIf(!chromiumPath)("the pages in Chromium", () => {
  let browser: Browser;
  beforeAll(async () => {
    browser = await launch();
  });
  /** Errors of scripts and of the console. */
  const complaints: string[] = [];
  afterEach(() => {
    expect(complaints.splice(0)).toEqual([]);
  });
  afterAll(() => browser?.close());

  /** Opens the page of these runs. */
  async function open(runs: readonly string[], width: number): Promise<Page> {
    const path = join(temporaryFolder(), "page.html");
    await writeReport(runs, { out: path });
    const page = await browser.newPage({ viewport: { width, height: 800 } });
    page.setDefaultTimeout(15_000);
    page.on("pageerror", (error) => complaints.push(error.message));
    page.on("console", (message) => {
      if (message.type() === "error") complaints.push(message.text());
    });
    await page.goto(pathToFileURL(path).href);
    await page.locator(".chart canvas").first().waitFor();
    return page;
  }

  const sections = (page: Page) => page.locator("h2").allTextContents();
  const charts = (page: Page) => page.locator("h3").allTextContents();
  const aRun = (ranks: number, seed: number) => {
    const folder = temporaryFolder();
    writeLog(folder, eventsUpTo(60, { ranks, run: { seed } }));
    return folder;
  };
  const OF_ALL = ["Loss", "Gradient norm", "Learning rate", "Mask-ratio cap u_max"];
  const OF_RANKS = ["Share of communication", "Straggler", "Slowest rank", "Ranks"];

  it.each([1280, 390])("of one run shows all that it has, %d pixels wide", async (width) => {
    const page = await open([aRun(4, 3)], width);
    const parts = ["Curriculum", "Curves", "Evaluations", "Machine", "Ranks", "Ranks, the slowest first", "Samples"];
    expect(await sections(page)).toEqual(parts);
    const shown = await charts(page);
    expect(shown.slice(0, 5)).toEqual([...OF_ALL, "bits per byte"]);
    expect(shown.slice(-4)).toEqual(OF_RANKS);
    expect(await page.locator(".chart canvas").count()).toBe(shown.length);
    expect(await page.locator(".status").textContent()).toBe("training");
    expect(await page.locator("figcaption").first().textContent()).toBe("4 forwards");
    expect(await page.evaluate("document.documentElement.scrollWidth")).toBe(width);
    await page.close();
  });

  it.each([1280, 390])("of several shows them over each other, %d pixels wide", async (width) => {
    const page = await open([aRun(0, 3), aRun(4, 4)], width);
    const titles = ["Curves", "Evaluations", "Machine", "Ranks"];
    expect(await sections(page)).toEqual([...titles, "Final numbers", "What the runs were made with", "Last samples"]);
    const shown = await charts(page);
    expect(shown.slice(0, 4)).toEqual(OF_ALL);
    expect(shown.slice(-4)).toEqual(OF_RANKS);
    const values = (title: string) => page.locator("article", { hasText: title }).locator(".values b");
    expect(await values("Loss").count()).toBe(2);
    expect(await values("Straggler").count()).toBe(1); // one run has no ranks
    await page.locator("button.run").first().click();
    expect(await values("Loss").count()).toBe(1);
    await page.getByRole("radio", { name: "Time" }).check({ force: true });
    await page.getByRole("button", { name: /light and dark/ }).click();
    expect(await page.evaluate("document.documentElement.scrollWidth")).toBe(width);
    await page.close();
  });
});
