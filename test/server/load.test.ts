import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, it } from "vitest";
import { StableDiffCoder } from "../../lib/checkpoint/index.js";
import * as torch from "../../lib/torch/index.js";
import { scratchFolder, TOKENIZER } from "../cli/support.js";
import { descendants, metric, type Serving, serve } from "./serving.js";
import { dataOf, until } from "./support.js";

/** DIFFCODER_LOAD=200x120 (streams and seconds) is what a release is tested with. */
const [STREAMS, SECONDS] = (process.env.DIFFCODER_LOAD ?? "40x6").split("x").map(Number);

const folder = scratchFolder();

const counts = { whole: 0, left: 0, busy: 0, tokens: 0 };
const errors: string[] = [];

/** One client: request after request; every second client of them leaves in the middle, at a random moment, half of the time. */
async function client({ url }: Serving, number: number, end: number): Promise<void> {
  const random = new torch.Philox(number, 1);
  while (performance.now() < end && errors.length < 10) {
    const leaves = number % 2 === 1 && random.uniform() < 0.5;
    const controller = new AbortController();
    const timer = leaves ? setTimeout(() => controller.abort(), random.uniform() * 1500) : undefined;
    const maxTokens = 4 + random.below(150);
    const prompt = "def f(x):\n    return x + 1\n".repeat(1 + random.below(6)) + number;
    try {
      const response = await fetch(`${url}/v1/completions`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ prompt, max_tokens: maxTokens, ignore_eos: true, stream: true, seed: number }),
        signal: controller.signal,
      });
      const text = await response.text();
      if (response.status === 503) {
        counts.busy++;
        await sleep(1000 * Number(response.headers.get("retry-after") ?? 1));
      } else if (response.status !== 200 || dataOf(text).at(-1) !== "[DONE]" || text.includes('"error"')) {
        errors.push(`${response.status}: ${text.slice(-300)}`);
      } else {
        counts.whole++;
        counts.tokens += maxTokens;
      }
    } catch (error) {
      if (controller.signal.aborted) counts.left++;
      else errors.push(String(error));
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Megabytes of a process in memory. */
function residentMegabytes(pid: number): number {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) / 1024;
}

it(
  `answers ${STREAMS} streams at once for ${SECONDS} s, of which many are left, and keeps nothing of them`,
  async () => {
    const model = join(folder.path, "model");
    using coder = StableDiffCoder.fromConfig("tiny", { tokenizer: TOKENIZER, seed: 3 });
    await coder.savePretrained(model);
    const server = await serve(model);
    const pids = [server.child.pid ?? 0, ...descendants(server.child.pid ?? 0)];
    const looks: { megabytes: number[]; delay: number }[] = [];
    const end = performance.now() + 1000 * SECONDS;
    const clients = Array.from({ length: STREAMS }, (_, number) => client(server, number, end));
    while (performance.now() < end) {
      await sleep(Math.min(2000, 250 * SECONDS));
      looks.push({
        megabytes: pids.map(residentMegabytes),
        delay: 1000 * (await metric(server.url, "event_loop_delay_p99_seconds")),
      });
    }
    await Promise.all(clients);
    expect(errors).toEqual([]);
    expect(counts.whole).toBeGreaterThan(STREAMS / 4);
    expect(counts.left).toBeGreaterThan(0);

    const idle = ["num_requests_running", "num_requests_waiting", "num_http_requests_open", "kv_cache_usage_perc"];
    await until(async () => {
      const values = await Promise.all(idle.map((name) => metric(server.url, name)));
      return values.every((value) => value === 0);
    }, "idleness");
    expect(await metric(server.url, "engine_restarts_total")).toBe(0);
    // Flat: what is there after the first third is there at the end, but for what V8 has not collected yet.
    const [early, late] = [looks[Math.floor(looks.length / 3)], looks.at(-1)].map((look) => look?.megabytes ?? []);
    for (const [i, megabytes] of late.entries()) expect(megabytes).toBeLessThan(early[i] * 1.2 + 60);

    if (process.env.DIFFCODER_LOAD) {
      console.log(
        JSON.stringify({ ...counts, megabytes: { early, late }, delays: looks.map(({ delay }) => Math.round(delay)) }),
      );
    }
  },
  60_000 + 1000 * SECONDS,
);
