import { once } from "node:events";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { beforeAll, describe, expect, it } from "vitest";
import { diffcoder, expectExplained, scratchFolder, smallCheckpoint } from "../cli/support.js";
import { descendants, metric, serve } from "./serving.js";
import { chunksOf, json, until } from "./support.js";

// The command as a user starts it: compiled, its engine in a process of its own.
const folder = scratchFolder();
let model: string;
beforeAll(async () => {
  model = await smallCheckpoint(join(folder.path, "model"));
});

describe("diffcoder serve", () => {
  it("says in a few lines what it serves, and where", async () => {
    const { stderr, url, post } = await serve(model, "--served-model-name", "org/tiny");
    expect(stderr().trim().split("\n")).toHaveLength(4);
    expect(stderr()).toMatch(/^serving +org\/tiny \(.* parameters, float32 on cpu, context 512; .*chat, infilling\)$/m);
    expect(stderr()).toMatch(/^access +no API key: open to every program on this machine$/m);
    expect(await (await fetch(url)).text()).toMatch(/<!doctype html>/i);
    expect((await json(fetch(`${url}/v1/models/org/tiny`))).id).toBe("org/tiny");
    expect((await json(post({ prompt: "x", max_tokens: 4 }))).choices[0].finish_reason).toBe("length");
  });

  it("stopped under load, loses no request that it took", async () => {
    const { child, url, post, stderr } = await serve(model, "--max-num-seqs", "4");
    const whole = Array.from({ length: 8 }, (_, i) => post({ prompt: `x${i}`, max_tokens: 300 }));
    const streams = Array.from({ length: 8 }, (_, i) => post({ prompt: `y${i}`, max_tokens: 300, stream: true }));
    await until(async () => (await metric(url, "num_http_requests_open")) === 16, "the load", 20);
    child.kill("SIGTERM");
    for (const response of await Promise.all(whole)) {
      expect(response.status).toBe(200);
      expect((await json(response)).usage.completion_tokens).toBe(300);
    }
    for (const chunks of await Promise.all(streams.map(chunksOf))) {
      expect(chunks.at(-1).choices[0].finish_reason).toBe("length");
    }
    const [code, signal] = child.exitCode === null ? await once(child, "exit") : [child.exitCode, null];
    expect([code, signal]).toEqual([0, null]);
    expect(stderr()).toMatch(/^SIGTERM: stopping; \d+ running/m);
  });

  it("holds its limits of the queue and of time, also while the engine's process does nothing", async () => {
    const limits = ["--max-queue", "1", "--queue-timeout", "5", "--request-timeout", "10", "--hang-timeout", "0"];
    const { child, url, post } = await serve(model, ...limits);
    const [worker] = descendants(child.pid ?? 0);
    process.kill(worker, "SIGSTOP");
    const waiting = post({ prompt: "x", max_tokens: 4 });
    await until(async () => (await metric(url, "num_requests_waiting")) === 1, "a request that waits");
    const refused = await post({ prompt: "x", max_tokens: 4 });
    expect([refused.status, (await json(refused)).error.code]).toEqual([503, "queue_full"]);
    expect(Number(refused.headers.get("retry-after"))).toBeGreaterThanOrEqual(1);
    const late = await waiting;
    expect([late.status, (await json(late)).error.code]).toEqual([503, "queue_timeout"]);
    process.kill(worker, "SIGCONT");
    const running = await post({ prompt: "x", n: 64, max_tokens: 500, ignore_eos: true, stream: true });
    expect(running.status).toBe(200);
    process.kill(worker, "SIGSTOP");
    expect((await chunksOf(running)).at(-1).error.code).toBe("request_timeout");
    process.kill(worker, "SIGCONT");
    expect((await post({ prompt: "x", max_tokens: 4 })).status).toBe(200);
    expect(await metric(url, 'admission_rejections_total\\{reason="queue_full"')).toBe(1);
  });

  it("told twice, stops at once", async () => {
    const { child, post } = await serve(model, "--shutdown-timeout", "100");
    const response = await post({ prompt: "x", max_tokens: 500, stream: true, ignore_eos: true });
    const others = Array.from({ length: 30 }, (_, i) => post({ prompt: `z${i}`, max_tokens: 500 }).catch(() => {}));
    await sleep(200);
    child.kill("SIGTERM");
    await sleep(100);
    const began = performance.now();
    child.kill("SIGTERM");
    const { exitCode, signalCode } = child;
    const [code, signal] =
      exitCode === null && signalCode === null ? await once(child, "exit") : [exitCode, signalCode];
    // The second signal may come when everything is closed, and then ends what is left of the process.
    expect([0, "SIGTERM"]).toContain(code ?? signal);
    expect(performance.now() - began).toBeLessThan(50_000);
    await response.text().catch(() => {});
    await Promise.all(others);
  });

  it("whose engine is killed fails its requests aloud, and serves the next ones", async () => {
    const { child, url, post } = await serve(model);
    const workers = descendants(child.pid ?? 0);
    expect(workers.length).toBeGreaterThan(0);
    const lost = Array.from({ length: 6 }, (_, i) =>
      post({ prompt: `x${i}`, max_tokens: 500, ignore_eos: true, stream: i % 2 === 0 }),
    );
    await until(async () => (await metric(url, "num_requests_running")) === 6, "the load", 60);
    for (const pid of workers) process.kill(pid, "SIGKILL");
    const texts = await Promise.all(lost.map(async (response) => (await response).text()));
    // Those that were done before are whole; the others say what happened.
    for (const text of texts) expect(text).toMatch(/engine_failed|"finish_reason":"(length|stop)"/);
    expect(texts.some((text) => text.includes("engine_failed"))).toBe(true);
    const began = performance.now();
    const next = await json(post({ prompt: "x", max_tokens: 4 }));
    expect(next.choices[0].finish_reason).toBe("length");
    expect(performance.now() - began).toBeLessThan(120_000); // idle: under 2 s
    expect((await fetch(`${url}/ready`)).status).toBe(200);
    expect(await (await fetch(`${url}/metrics`)).text()).toMatch(/engine_restarts_total\S* 1/);
  });

  it("explains itself, by groups", async () => {
    const { stdout } = await diffcoder(["serve", "--help"]);
    const groups = [...stdout.matchAll(/^([A-Z][\w ]+):$/gm)].map(([, name]) => name);
    expect(groups).toEqual(expect.arrayContaining(["Server", "Engine"]));
  });

  it("explains what is wrong", async () => {
    expectExplained(
      await diffcoder(["serve", join(folder.path, "nothing"), "--port", "0", "--log-level", "silent"]),
      /nothing/,
    );
    expectExplained(await diffcoder(["serve", model, "--host", "0.0.0.0"]), /--api-key/);
    expectExplained(await diffcoder(["serve", model, "--tls-key", "x"]), /--tls-cert: missing/);
  });
});
