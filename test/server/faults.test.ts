import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, constants, openSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { beforeAll, describe, expect, it } from "vitest";
import { StableDiffCoder } from "../../lib/checkpoint/index.js";
import { root, scratchFolder, TOKENIZER } from "../cli/support.js";
import { descendants, metric, residentBytes, serve } from "./serving.js";
import { json, until } from "./support.js";

/** Scores whose clients leave: DIFFCODER_ABANDONED=2000 is what a release is tested with. */
const COUNT = Number(process.env.DIFFCODER_ABANDONED ?? 300);

const folder = scratchFolder();
const model = () => join(folder.path, "model");
beforeAll(async () => {
  using coder = StableDiffCoder.fromConfig("tiny", { tokenizer: TOKENIZER, seed: 3 });
  await coder.savePretrained(model());
}, 120_000);

function fifo(): string {
  const path = join(folder.path, "never-read");
  execFileSync("mkfifo", [path]);
  return path;
}

const megabytes = (pid: number) => Math.round(residentBytes(pid) / 2 ** 20);

/** Milliseconds of a request. */
async function timed(request: () => Promise<Response>): Promise<{ ms: number; response: Response }> {
  const began = performance.now();
  const response = await request();
  await response.clone().text();
  return { ms: Math.round(performance.now() - began), response };
}

describe("diffcoder serve", () => {
  it(`forgets ${COUNT} scores that are abandoned`, async () => {
    const { child, url, post } = await serve(model());
    const pids = [child.pid ?? 0, ...descendants(child.pid ?? 0)];
    const before = pids.map(megabytes);
    const { hostname, port } = new URL(url);
    const prompt = Array.from({ length: 400 }, (_, i) => 300 + (i % 3000));
    const text = JSON.stringify({ prompt, max_tokens: 0, echo: true, logprobs: 5 });
    const head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    const request = `${head}Content-Length: ${text.length}\r\n\r\n${text}`;
    for (let i = 0; i < COUNT; i++) {
      const socket = connect(Number(port), hostname);
      socket.on("error", () => {});
      socket.write(request, () => setTimeout(() => socket.destroy(), 50));
      if (i % 50 === 49) await sleep(10);
    }
    const health = await timed(() => fetch(`${url}/health`));
    expect(health.response.status).toBe(200);
    const small = await timed(async () => {
      for (;;) {
        const response = await post({ prompt: "x", max_tokens: 2 });
        if (response.status !== 503) return response; // the queue was full a moment ago
        await sleep(20);
      }
    });
    expect((await json(small.response)).choices[0].finish_reason).toMatch(/length|stop/);
    await until(
      async () => {
        // One request: several at once would be connections of their own.
        const text = await (await fetch(`${url}/metrics`)).text();
        const names = ["num_requests_running", "num_requests_waiting", "num_http_requests_open", "num_connections"];
        const values = names.map((name) => Number(new RegExp(`:${name}\\{[^}]*\\} (\\S+)`).exec(text)?.[1]));
        return values.slice(0, 3).every((value) => value === 0) && values[3] < 10;
      },
      "idleness",
      30,
    );
    const after = pids.map(megabytes);
    for (const [i, now] of after.entries()) expect(now).toBeLessThan(before[i] + 150);
    const counts = await (await fetch(`${url}/metrics`)).text();
    expect(counts).toMatch(/request_success_total\{finished_reason="abort"\S* [1-9]/);
    if (process.env.DIFFCODER_ABANDONED) {
      const [scores, aborted] = [await metric(url, "scores_total"), /"abort"\S* (\d+)/.exec(counts)?.[1]];
      console.log(JSON.stringify({ health: health.ms, small: small.ms, before, after, scores, aborted }));
    }
  });

  it("whose engine's process hangs says why it is not ready, and starts it again", async () => {
    const { child, url, post } = await serve(model(), "--hang-timeout", "4");
    await post({ prompt: "x", max_tokens: 2 });
    const [worker] = descendants(child.pid ?? 0);
    process.kill(worker, "SIGSTOP");
    const began = performance.now();
    const seconds = () => Number(((performance.now() - began) / 1000).toFixed(1));
    const lost = post({ prompt: "x", max_tokens: 300 });
    const ready = async () => (await fetch(`${url}/ready`)).json() as Promise<{ status: string; reason?: string }>;
    await until(async () => (await ready()).status === "unresponsive", "/ready to tell", 30);
    const noticed = seconds();
    expect((await ready()).reason).toMatch(/no sign of life/);
    expect((await fetch(`${url}/health`)).status).toBe(200);
    const response = await lost;
    const told = seconds();
    expect([response.status, (await json(response)).error.code]).toEqual([500, "engine_failed"]);
    await until(async () => (await ready()).status === "ok", "the next engine", 60);
    const recovered = seconds();
    expect((await post({ prompt: "x", max_tokens: 2 })).status).toBe(200);
    expect(await metric(url, "engine_restarts_total")).toBe(1);
    if (process.env.DIFFCODER_ABANDONED) console.log(JSON.stringify({ noticed, told, recovered }));
  });

  it.each([
    ["a pipe that nobody reads", () => openSync(fifo(), constants.O_RDWR)],
    ["a full disk", () => openSync("/dev/full", constants.O_WRONLY)],
  ])(
    "with %s for its log serves, and ends at SIGTERM",
    async (_, place) => {
      const stdout = place();
      const child = spawn(process.execPath, [join(root, "bin", "diffcoder.mjs"), "serve", model(), "--port", "0"], {
        env: { ...process.env, OMP_NUM_THREADS: "1", NO_COLOR: "1", FORCE_COLOR: undefined },
        stdio: ["ignore", stdout, "pipe"],
      });
      let stderr = "";
      child.stderr?.on("data", (chunk) => {
        stderr += chunk;
      });
      try {
        await until(() => stderr.includes("access") || child.exitCode !== null, "the start", 120);
        const url = /(http:\/\/\S+?)\/v1/.exec(stderr)?.[1] ?? "";
        // Some 200 bytes a line; a pipe holds 64 KiB.
        for (let i = 0; i < 20; i++) {
          const all = Array.from({ length: 30 }, () => fetch(`${url}/nothing/${"x".repeat(50)}`));
          for (const response of await Promise.all(all)) expect(response.status).toBe(404);
        }
        expect((await fetch(`${url}/health`)).status).toBe(200);
        child.kill("SIGTERM");
        const [code, signal] = child.exitCode === null ? await once(child, "exit") : [child.exitCode, null];
        expect([code, signal]).toEqual([0, null]);
      } finally {
        child.kill("SIGKILL");
        closeSync(stdout);
      }
    },
    180_000,
  );
});
