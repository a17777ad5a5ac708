import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { request as httpsRequest } from "node:https";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, describe, expect, it } from "vitest";
import { EngineError } from "../../lib/engine/index.js";
import { Server, ServerError } from "../../lib/server/index.js";
import { ScriptedEngine, workerDied } from "./scripted-engine.js";
import { chunksOf, dataOf, json, start, until } from "./support.js";

const folder = mkdtempSync(join(tmpdir(), "diffcoder-server-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const LONG = { prompt: "x", max_tokens: 400 };

/** A request as bytes, and what comes back. */
function raw(url: string, text: string): { socket: Socket; heard: () => string } {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  let heard = "";
  socket.on("data", (chunk) => {
    heard += chunk;
  });
  socket.on("error", () => {});
  socket.write(text);
  return { socket, heard: () => heard };
}

function httpText(path: string, body: object, headers = ""): string {
  const text = JSON.stringify(body);
  return (
    `POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n${headers}` +
    `Content-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`
  );
}

describe("API keys", () => {
  it("guard everything but health, readiness and the page", async () => {
    await using served = await start(new ScriptedEngine(), { apiKeys: ["right", "other"] });
    const status = async (path: string, headers: Record<string, string> = {}) =>
      (await fetch(served.url + path, { headers })).status;
    for (const path of ["/health", "/ready", "/"]) expect(await status(path)).toBe(200);
    const guarded = ["/v1/models", "/metrics", "/version", "/openapi.json", "/nothing", "/v1/completions"];
    for (const path of guarded) expect(await status(path)).toBe(401);
    for (const key of ["wrong", "righ", "rightt", ""]) {
      expect(await status("/v1/models", { authorization: `Bearer ${key}` })).toBe(401);
    }
    for (const key of ["right", "other"]) {
      expect(await status("/v1/models", { authorization: `Bearer ${key}` })).toBe(200);
      expect(await status("/v1/models", { "x-api-key": key })).toBe(200);
    }
    const refused = await served.post("/v1/completions", LONG);
    expect(refused.headers.get("www-authenticate")).toBe("Bearer");
    expect((await json(refused)).error).toMatchObject({ type: "authentication_error", code: "invalid_api_key" });
  });

  it("come from a file, which may change", async () => {
    const path = join(folder, "keys");
    writeFileSync(path, "# ours\nfirst\n\n  # of the editor\nsecond\n");
    await using served = await start(new ScriptedEngine(), { apiKeyFile: path });
    const status = async (key: string) =>
      (await fetch(`${served.url}/v1/models`, { headers: { authorization: `Bearer ${key}` } })).status;
    expect(served.server.keys).toBe(2);
    expect([await status("first"), await status("second"), await status("# ours")]).toEqual([200, 200, 401]);
    writeFileSync(path, "third\n");
    await until(async () => (await status("third")) === 200, "the new key", 8);
    expect(await status("first")).toBe(401);
    writeFileSync(path, "# none\n");
    await until(() => served.log.some(({ level }) => level === "error"), "the refusal of an empty file", 8);
    expect(await status("third")).toBe(200);
  });

  it("are needed where others can reach the server", () => {
    const make = (options: object) => () => Server.create(new ScriptedEngine(), { logLevel: "silent", ...options });
    expect(make({ host: "0.0.0.0" })).toThrow(ServerError);
    expect(make({ host: "0.0.0.0" })).toThrow(/--api-key/);
    expect(make({ apiKeyFile: join(folder, "nowhere") })).toThrow(/nowhere cannot be read/);
    expect(make({ prot: 1 })).toThrow(/prot/);
    expect(make({ maxQueue: 8 })).toThrow(/maxQueue is an engine option now: Engine.create\(\{ maxQueue \}\)/);
    expect(make({ queueTimeout: 1, requestTimeout: 2 })).toThrow(/queueTimeout, requestTimeout are engine options now/);
  });

  it("without them, a page whose name was made to mean this machine gets nothing", async () => {
    await using served = await start(new ScriptedEngine());
    const { socket, heard } = raw(served.url, "GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    await until(() => heard().includes("\r\n\r\n"), "an answer");
    expect(heard()).toMatch(/^HTTP\/1\.1 400/);
    socket.destroy();
  });
});

describe("a full queue", () => {
  it("is answered with 503 and the time after which to try again", async () => {
    const engine = new ScriptedEngine({ blockTime: 200, maxNumSeqs: 1, limits: { maxQueue: 2 } });
    await using served = await start(engine);
    const send = () => served.post("/v1/completions", { prompt: "x", max_tokens: 60 });
    const taken = [send()];
    await until(() => engine.running === 1, "the first to run"); // until then it waits, too
    taken.push(send(), send());
    await until(() => engine.running === 1 && engine.waiting === 2, "a full queue");
    const refused = await served.post("/v1/completions", LONG);
    expect(refused.status).toBe(503);
    expect(Number(refused.headers.get("retry-after"))).toBeGreaterThanOrEqual(1);
    expect((await json(refused)).error).toMatchObject({ type: "overloaded_error", code: "queue_full" });
    const streamed = await served.post("/v1/completions", { ...LONG, stream: true });
    expect(streamed.status).toBe(503);
    for (const each of await Promise.all(taken)) expect(each.status).toBe(200);
    expect((await served.post("/v1/completions", { prompt: "x", max_tokens: 4 })).status).toBe(200);
    const metrics = await (await fetch(`${served.url}/metrics`)).text();
    expect(metrics).toMatch(/admission_rejections_total\{reason="queue_full",.*\} 2/);
  }, 60_000);

  it("counts prompt tokens, too", async () => {
    const engine = new ScriptedEngine({ blockTime: 100, maxNumSeqs: 1, limits: { maxQueueTokens: 100 } });
    await using served = await start(engine);
    const prompt = Array.from({ length: 80 }, () => 7);
    const running = served.post("/v1/completions", { prompt, max_tokens: 80 });
    await until(() => engine.running === 1, "the first to run");
    const waiting = served.post("/v1/completions", { prompt, max_tokens: 4 });
    await until(() => engine.waiting === 1, "the second to wait");
    const refused = await served.post("/v1/completions", { prompt, max_tokens: 4 });
    expect((await json(refused)).error.code).toBe("queue_tokens_full");
    expect([(await running).status, (await waiting).status]).toEqual([200, 200]);
  });
});

describe("time limits", () => {
  it("end the wait with 503, in a stream, too", async () => {
    const engine = new ScriptedEngine({ blockTime: 20, maxNumSeqs: 1, limits: { queueTimeout: 0.1 } });
    await using served = await start(engine);
    const running = served.post("/v1/completions", LONG);
    await until(() => engine.running === 1, "the first to run");
    const [plain, stream] = await Promise.all([
      served.post("/v1/completions", LONG),
      served.post("/v1/completions", { ...LONG, stream: true }),
    ]);
    for (const response of [plain, stream]) {
      expect(response.status).toBe(503);
      expect(response.headers.get("retry-after")).toMatch(/^\d+$/);
      expect((await json(response)).error.code).toBe("queue_timeout");
    }
    expect(engine.waiting).toBe(0);
    expect((await running).status).toBe(200);
  });

  it("of the wait are over with the first choice, whatever the others wait for", async () => {
    const engine = new ScriptedEngine({ blockTime: 20, limits: { queueTimeout: 0.15 } });
    await using served = await start(engine);
    const began = performance.now();
    const response = await served.post("/v1/completions", { prompt: "x", max_tokens: 16, n: 3 });
    expect(performance.now() - began).toBeGreaterThan(150);
    expect(response.status).toBe(200);
    expect((await json(response)).usage.completion_tokens).toBe(48);
  });

  it("end a request with 504, or in the stream", async () => {
    const engine = new ScriptedEngine({ blockTime: 20, limits: { requestTimeout: 0.2 } });
    await using served = await start(engine);
    const [plain, stream] = await Promise.all([
      served.post("/v1/completions", LONG),
      served.post("/v1/completions", { ...LONG, stream: true }),
    ]);
    expect(plain.status).toBe(504);
    expect((await json(plain)).error).toMatchObject({ type: "timeout_error", code: "request_timeout" });
    expect(stream.status).toBe(200);
    const chunks = await chunksOf(stream);
    expect(chunks.length).toBeGreaterThan(2);
    expect(chunks.at(-1).error.code).toBe("request_timeout");
    await until(() => engine.running === 0, "the engine to be free");
    expect(engine.aborted).toBe(2);
  });

  it("end an upload that does not end", async () => {
    await using served = await start(new ScriptedEngine(), { uploadTimeout: 0.5 });
    const half = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    const { socket, heard } = raw(served.url, `${half}Content-Length: 100\r\n\r\n{"prompt":`);
    await once(socket, "close");
    expect(heard()).toMatch(/^HTTP\/1\.1 408/);
    expect(JSON.parse(heard().split("\r\n\r\n")[1]).error.code).toBe("request_too_slow");
  });
});

describe("a client that goes", () => {
  it.each([
    ["running", "whole", {}],
    ["running", "stream", { stream: true }],
    ["waiting", "whole", {}],
    ["waiting", "stream", { stream: true }],
  ])("frees what was %s, %s", async (state, _, more) => {
    const engine = new ScriptedEngine({ blockTime: 20, maxNumSeqs: state === "running" ? 2 : 1 });
    await using served = await start(engine);
    const before = state === "waiting" ? 1 : 0;
    const others = Array.from({ length: before }, () =>
      served.post("/v1/completions", { prompt: "x", max_tokens: 400 }),
    );
    await until(() => engine.running === before, "the first to run");
    const { socket } = raw(served.url, httpText("/v1/completions", { ...LONG, ...more }));
    await until(() => (state === "running" ? engine.running === 1 : engine.waiting === 1), "the request");
    await sleep(30);
    socket.destroy();
    await until(() => engine.aborted === 1, "the engine to hear of it");
    await until(() => engine.running === before && engine.waiting === 0, "the place to be free");
    for (const each of await Promise.all(others)) expect(each.status).toBe(200);
    await until(() => served.server.open === 0, "nothing to be open");
    await until(() => served.log.some((line) => line.status === 499 && line.code === "client_gone"), "its line");
    const metrics = await (await fetch(`${served.url}/metrics`)).text();
    expect(metrics).toMatch(/request_success_total\{finished_reason="abort",.*\} 1/);
  });

  it("in the middle of its request is nobody", async () => {
    await using served = await start(new ScriptedEngine());
    const text = httpText("/v1/completions", LONG);
    for (const part of [0.3, 0.9]) {
      const { socket } = raw(served.url, text.slice(0, Math.floor(text.length * part)));
      await sleep(20);
      socket.destroy();
    }
    await sleep(30);
    expect((await fetch(`${served.url}/health`)).status).toBe(200);
    expect(served.log.some(({ level }) => level === "error")).toBe(false);
  });
});

describe("a slow reader", () => {
  it("is waited for, without its stream piling up, and does not hold others up", async () => {
    const engine = new ScriptedEngine({ model: { maxLength: 200_000 }, limits: { requestTimeout: 2 } });
    await using served = await start(engine);
    const body = { prompt: "x", max_tokens: 100_000, stream: true, dllm: { stream_steps: true } };
    const { socket } = raw(served.url, httpText("/v1/completions", body));
    socket.pause();
    await until(() => engine.counters.completionTokens > 1000, "a full socket");
    await sleep(300);
    const then = engine.counters.completionTokens;
    await sleep(200);
    // The scripted engine is asked for one event at a time: it stands still with the reader.
    expect(engine.counters.completionTokens).toBe(then);
    expect(then).toBeLessThan(50_000);
    expect((await served.post("/v1/completions", { prompt: "x", max_tokens: 8 })).status).toBe(200);
    await until(() => engine.running === 0, "the request's time to be over", 4);
    await until(() => served.server.open === 0, "nothing to be open", 4);
    socket.destroy();
  });

  it("of a silent stream hears comments", async () => {
    const engine = new ScriptedEngine({ blockTime: 300 });
    await using served = await start(engine, { keepAlive: 0.1 });
    const response = await served.post("/v1/completions", { prompt: "x", max_tokens: 8, stream: true });
    const text = await response.text();
    expect(text.split("\n\n").filter((event) => event === ": keep-alive").length).toBeGreaterThanOrEqual(3);
    expect(dataOf(text).at(-1)).toBe("[DONE]");
  });
});

describe("stopping", () => {
  it("lets what runs and waits end, and takes nothing more", async () => {
    const engine = new ScriptedEngine({ blockTime: 10, maxNumSeqs: 2 });
    const served = await start(engine);
    const whole = Array.from({ length: 3 }, () => served.post("/v1/completions", { prompt: "x", max_tokens: 400 }));
    const stream = served.post("/v1/completions", { prompt: "x", max_tokens: 400, stream: true });
    await until(() => engine.running === 2 && engine.waiting === 2, "the load");
    const closed = served.server.close({ drain: 10 });
    const health = await fetch(`${served.url}/health`);
    expect([health.status, await health.json()]).toEqual([503, { status: "draining" }]);
    expect((await fetch(`${served.url}/ready`)).status).toBe(503);
    const refused = await served.post("/v1/completions", LONG);
    expect(refused.status).toBe(503);
    expect(refused.headers.get("retry-after")).toBe("1");
    expect(refused.headers.get("connection")).toBe("close");
    expect((await json(refused)).error.code).toBe("draining");
    for (const response of await Promise.all(whole)) {
      expect(response.status).toBe(200);
      expect((await json(response)).usage.completion_tokens).toBe(400);
    }
    expect((await chunksOf(stream)).at(-1).choices[0].finish_reason).toBe("length");
    await closed;
    await expect(fetch(`${served.url}/health`)).rejects.toThrow();
  });

  it("ends what takes longer than the limit, with an error", async () => {
    const engine = new ScriptedEngine({ blockTime: 50 });
    const served = await start(engine);
    const whole = served.post("/v1/completions", LONG);
    const stream = await served.post("/v1/completions", { ...LONG, stream: true });
    await until(() => engine.running === 2, "the load");
    const began = performance.now();
    const closed = served.server.close({ drain: 0.2 });
    const told = await whole;
    expect(told.status).toBe(503);
    expect((await json(told)).error.code).toBe("draining");
    expect((await chunksOf(stream)).at(-1).error.code).toBe("draining");
    await closed;
    expect(performance.now() - began).toBeLessThan(2000);
    expect(engine.running).toBe(0);
  });

  it("at once when it is told again", async () => {
    const engine = new ScriptedEngine({ blockTime: 50 });
    const served = await start(engine);
    const whole = served.post("/v1/completions", LONG);
    await until(() => engine.running === 1, "the load");
    const closed = served.server.close({ drain: 60 });
    await sleep(50);
    served.server.hurry();
    expect((await whole).status).toBe(503);
    await closed;
  });
});

describe("an engine", () => {
  it("that loads is waited for: alive, not ready", async () => {
    let ready: (engine: ScriptedEngine) => void = () => {};
    const loading = new Promise<ScriptedEngine>((resolve) => {
      ready = resolve;
    });
    await using served = await start(loading);
    const status = async (path: string) => (await fetch(served.url + path)).status;
    expect([await status("/health"), await status("/ready")]).toEqual([200, 503]);
    const early = await served.post("/v1/completions", LONG);
    expect([early.status, (await json(early)).error.code]).toEqual([503, "loading"]);
    expect(await json(fetch(`${served.url}/v1/models`))).toMatchObject({ data: [{ id: "tiny", max_model_len: null }] });
    ready(new ScriptedEngine());
    await until(async () => (await status("/ready")) === 200, "readiness");
    expect((await served.post("/v1/completions", { prompt: "x", max_tokens: 4 })).status).toBe(200);
  });

  it("that cannot be loaded makes the server unhealthy", async () => {
    await using served = await start(Promise.reject(new EngineError("ENGINE_MODEL", "cannot load checkpoint")));
    await until(() => served.log.some(({ level }) => level === "error"), "its line");
    expect(JSON.stringify(served.log)).toContain("cannot load checkpoint");
    const health = await fetch(`${served.url}/health`);
    expect([health.status, await health.json()]).toEqual([503, { status: "dead" }]);
    expect((await fetch(`${served.url}/ready`)).status).toBe(503);
    const refused = await served.post("/v1/completions", LONG);
    expect([refused.status, (await json(refused)).error.code]).toEqual([503, "engine_unavailable"]);
  });

  it.each([
    ["ENGINE_QUEUE_FULL", "requests", 503, "queue_full"],
    ["ENGINE_QUEUE_FULL", "tokens", 503, "queue_tokens_full"],
    ["ENGINE_TIMEOUT", "queue", 503, "queue_timeout"],
    ["ENGINE_TIMEOUT", "request", 504, "request_timeout"],
  ] as const)("that reaches a limit of its own, %s (%s), is answered with %i %s", async (code, limit, status, told) => {
    const error = new EngineError(code, "a limit is reached", { details: { limit } });
    await using served = await start(new ScriptedEngine({ fail: { after: 0, error } }));
    const response = await served.post("/v1/completions", LONG);
    expect([response.status, (await json(response)).error.code]).toEqual([status, told]);
    expect(response.headers.has("retry-after")).toBe(status === 503);
  });

  it("that fails in the middle is told of, and the next request is served", async () => {
    const engine = new ScriptedEngine({ blockTime: 5, fail: { after: 3, error: workerDied() } });
    await using served = await start(engine);
    const whole = await served.post("/v1/completions", LONG);
    expect(whole.status).toBe(500);
    const { error } = await json(whole);
    expect(error).toMatchObject({ type: "server_error", code: "engine_failed" });
    const chunks = await chunksOf(served.post("/v1/completions", { ...LONG, stream: true }));
    expect(chunks.at(-1).error.code).toBe("engine_failed");
    expect(chunks.length).toBeGreaterThan(3);
    expect((await served.post("/v1/completions", { prompt: "x", max_tokens: 8 })).status).toBe(200);
    const lines = served.log.filter(({ level }) => level === "error");
    expect(JSON.stringify(lines)).toContain("SIGKILL");
  });

  it("that is dead makes the server unhealthy", async () => {
    const engine = new ScriptedEngine();
    await using served = await start(engine);
    engine.state = "dead";
    expect((await fetch(`${served.url}/health`)).status).toBe(503);
    expect((await fetch(`${served.url}/ready`)).status).toBe(503);
    const refused = await served.post("/v1/completions", LONG);
    expect([refused.status, (await json(refused)).error.code]).toEqual([503, "engine_unavailable"]);
  });

  it("that fails at something unforeseen gives no details away", async () => {
    const engine = new ScriptedEngine({ fail: { after: 0, error: new Error("secret path /srv/x") } });
    await using served = await start(engine);
    const response = await served.post("/v1/completions", LONG);
    expect(response.status).toBe(500);
    expect(await response.text()).not.toContain("secret");
    expect(JSON.stringify(served.log)).toContain("secret path");
  });
});

describe("limits of a request", () => {
  it("refuse bodies and headers that are too large, and what is no HTTP", async () => {
    await using served = await start(new ScriptedEngine(), { bodyLimit: 2048, headerLimit: 4096 });
    const large = await served.post("/v1/completions", { prompt: "x".repeat(4000) });
    expect([large.status, (await json(large)).error.code]).toEqual([413, "body_too_large"]);
    const headers = raw(served.url, `GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: ${"x".repeat(8000)}\r\n\r\n`);
    await until(() => headers.heard().includes("}}"), "an answer");
    expect(headers.heard()).toMatch(/^HTTP\/1\.1 431/);
    const nonsense = raw(served.url, "hello\r\n\r\n");
    await until(() => nonsense.heard().includes("}}"), "an answer");
    expect(nonsense.heard()).toMatch(/^HTTP\/1\.1 400/);
  });

  it("do not let one request hold the server up", async () => {
    await using served = await start(new ScriptedEngine());
    const wrongs = [
      `{"prompt":[${"{},".repeat(1_000_000)}{}]}`,
      `{"prompt":"x","stop":[${"1,".repeat(60_000)}1]}`,
      `{"prompt":"x","stop":[${"1,".repeat(900_000)}1]}`,
      "[".repeat(3_000_000),
      `{"prompt":"x","a":${"[".repeat(1000)}${"]".repeat(1000)}}`,
    ];
    for (const wrong of wrongs) {
      const began = performance.now();
      expect((await served.post("/v1/completions", wrong)).status).toBe(400);
      expect(performance.now() - began).toBeLessThan(15_000); // idle: under 1.5 s
    }
  }, 90_000);
});

describe("pages of other origins", () => {
  it("get nothing unless they are named", async () => {
    await using closed = await start(new ScriptedEngine());
    const plain = await fetch(`${closed.url}/v1/models`, { headers: { origin: "https://a.example" } });
    expect(plain.headers.get("access-control-allow-origin")).toBeNull();
    await using served = await start(new ScriptedEngine(), { corsOrigins: ["https://a.example"], apiKeys: ["k"] });
    const asked = await fetch(`${served.url}/v1/completions`, {
      method: "OPTIONS",
      headers: {
        origin: "https://a.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
      },
    });
    expect(asked.status).toBe(204);
    expect(asked.headers.get("access-control-allow-origin")).toBe("https://a.example");
    const stream = await served.post(
      "/v1/completions",
      { prompt: "x", max_tokens: 4, stream: true },
      {
        headers: { origin: "https://a.example", authorization: "Bearer k" },
      },
    );
    expect(stream.headers.get("access-control-allow-origin")).toBe("https://a.example");
    await stream.text();
    const other = await fetch(`${served.url}/health`, { headers: { origin: "https://b.example" } });
    expect(other.headers.get("access-control-allow-origin")).not.toBe("https://b.example");
  });
});

describe("TLS", () => {
  const make = (name: string) => {
    const [key, cert] = [join(folder, `${name}.key`), join(folder, `${name}.pem`)];
    const subject = ["-subj", `/CN=${name}`, "-days", "2"];
    const kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    execFileSync("openssl", ["req", "-x509", ...kind, "-keyout", key, "-out", cert, ...subject], { stdio: "ignore" });
    return { key, cert };
  };
  const subjectOf = (url: string) =>
    new Promise<string>((resolve, reject) => {
      const call = httpsRequest(`${url}/health`, { rejectUnauthorized: false, agent: false }, (response) => {
        response.resume();
        const { socket } = response as unknown as { socket: import("node:tls").TLSSocket };
        resolve(String(socket.getPeerCertificate().subject.CN));
      });
      call.on("error", reject).end();
    });

  it("takes renewed files without a restart, and keeps the old when they are wrong", async () => {
    const [one, two] = [make("one"), make("two")];
    const used = { key: join(folder, "used.key"), cert: join(folder, "used.pem") };
    cpSync(one.key, used.key);
    cpSync(one.cert, used.cert);
    await using served = await start(new ScriptedEngine(), { tls: used });
    expect(served.url).toMatch(/^https:/);
    expect(await subjectOf(served.url)).toBe("one");
    cpSync(two.key, used.key);
    cpSync(two.cert, used.cert);
    await until(async () => (await subjectOf(served.url)) === "two", "the new certificate", 8);
    writeFileSync(used.cert, readFileSync(one.cert));
    await until(() => served.log.some(({ level }) => level === "error"), "the refusal", 8);
    expect(await subjectOf(served.url)).toBe("two");
  });
});

describe("the log", () => {
  it("has a line of JSON for each request, with its id, and never what was asked", async () => {
    await using served = await start(new ScriptedEngine());
    const response = await served.post(
      "/v1/completions",
      { prompt: "my secret", max_tokens: 8 },
      {
        headers: { "x-request-id": "abc-1" },
      },
    );
    expect(response.headers.get("x-request-id")).toBe("abc-1");
    const { id } = await json(response);
    const bad = await served.post("/v1/completions", '{"prompt": "my secret" x', {
      headers: { "x-request-id": "not an id!" },
    });
    expect(bad.headers.get("x-request-id")).toMatch(/^[0-9a-f-]{36}$/);
    await until(() => served.log.filter(({ route }) => route === "/v1/completions").length === 2, "two lines");
    const line = served.log.find(({ reqId }) => reqId === "abc-1");
    expect(line).toMatchObject({ level: "info", status: 200, method: "POST", id, completion_tokens: 8 });
    expect(JSON.stringify(served.log)).not.toContain("secret");
    expect(await bad.text()).not.toContain("secret");
  });
});
