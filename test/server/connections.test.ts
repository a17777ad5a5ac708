import { randomBytes } from "node:crypto";
import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, it } from "vitest";
import { ScriptedEngine } from "./scripted-engine.js";
import { json, type Started, start, until } from "./support.js";

/** Connections that do nothing in the test of many; the issue asks for 300. */
const IDLE = Number(process.env.DIFFCODER_IDLE ?? 300);

interface Client {
  socket: Socket;
  heard: () => string;
  isClosed: () => boolean;
}

/** A client that never closes by itself. */
function open(url: string, text = ""): Client {
  const { hostname, port } = new URL(url);
  const socket = connect({ port: Number(port), host: hostname, allowHalfOpen: true });
  let heard = "";
  let closed = false;
  socket.on("data", (chunk) => {
    heard += chunk;
  });
  socket.on("error", () => {});
  for (const event of ["close", "end"]) {
    socket.on(event, () => {
      closed = true;
    });
  }
  if (text !== "") socket.write(text);
  return { socket, heard: () => heard, isClosed: () => closed };
}

function post(path: string, body: string, headers = ""): string {
  const head = `POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n${headers}`;
  return `${head}Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
}

const answersOf = (text: string) => [...text.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => Number(status));

/** Connections that the server holds. */
async function connections({ server }: Started): Promise<number> {
  return new Promise((resolve) => server.app.server.getConnections((_, count) => resolve(count)));
}

async function metricOf({ url }: Started, name: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  return Number(
    new RegExp(`^diffcoder:${name} (\\S+)$`, "m").exec(
      text.replace(/,?model_name="tiny"/g, "").replaceAll("{}", ""),
    )?.[1],
  );
}

describe("a connection", () => {
  it("stays open after an answer that is an error", async () => {
    await using served = await start(new ScriptedEngine(), { bodyLimit: 4096 });
    const { socket, heard, isClosed } = open(served.url);
    const wrongs = [
      post("/v1/completions", "{"),
      post("/v1/completions", '{"max_tokens":1}'),
      post("/v1/completions", "x".repeat(5000)),
      post("/nothing", "{}"),
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nabc",
      post("/v1/completions", '{"prompt":"x","max_tokens":1}'),
    ];
    for (const [i, wrong] of wrongs.entries()) {
      socket.write(wrong);
      await until(() => answersOf(heard()).length === i + 1, `answer ${i}`);
    }
    expect(answersOf(heard())).toEqual([400, 400, 413, 404, 415, 200]);
    expect(heard()).not.toMatch(/connection: close/i);
    expect(isClosed()).toBe(false);
    socket.destroy();
  });

  it("of a wrong key stays, too", async () => {
    await using served = await start(new ScriptedEngine(), { apiKeys: ["k"] });
    const { socket, heard } = open(served.url, post("/v1/completions", '{"prompt":"x","max_tokens":1}'));
    await until(() => answersOf(heard()).length === 1, "the refusal");
    socket.write(post("/v1/completions", '{"prompt":"x","max_tokens":1}', "Authorization: Bearer k\r\n"));
    await until(() => answersOf(heard()).length === 2, "the answer");
    expect(answersOf(heard())).toEqual([401, 200]);
    socket.destroy();
  });

  it("whose body is too large gets its answer while it still sends, and is then closed", async () => {
    await using served = await start(new ScriptedEngine(), { bodyLimit: 4096 });
    const head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    const declared = open(served.url, `${head}Content-Length: 99999999\r\n\r\n`);
    const chunked = open(served.url, `${head}Transfer-Encoding: chunked\r\n\r\n`);
    const timer = setInterval(() => {
      if (declared.socket.writable) declared.socket.write("x".repeat(1000));
      if (chunked.socket.writable) chunked.socket.write(`3e8\r\n${"x".repeat(1000)}\r\n`);
    }, 20);
    for (const { heard } of [declared, chunked]) {
      await until(() => heard().includes("}}"), "the answer");
      expect(answersOf(heard())).toEqual([413]);
    }
    await until(async () => (await connections(served)) === 0, "both to be closed", 20);
    clearInterval(timer);
  }, 30_000);

  it("that is no HTTP, or too slow, is closed though its client never does", async () => {
    await using served = await start(new ScriptedEngine(), { uploadTimeout: 0.5 });
    const nonsense = Array.from({ length: 5 }, () => open(served.url, "hello\r\n\r\n"));
    const slow = Array.from({ length: 5 }, () => open(served.url, "POST /v1/completions HTTP/1.1\r\nHost:"));
    const silent = open(served.url);
    await until(() => nonsense.every(({ heard }) => heard().includes("}}")), "their answers", 10);
    await until(() => slow.every(({ heard }) => heard().includes("}}")), "the answers of the slow", 10);
    for (const { socket } of nonsense) socket.write("more of it");
    await until(async () => (await connections(served)) === 0, "all to be closed", 20);
    expect(nonsense.map(({ heard }) => answersOf(heard()))).toEqual(nonsense.map(() => [400]));
    expect(slow.map(({ heard }) => answersOf(heard()))).toEqual(slow.map(() => [408]));
    silent.socket.destroy();
  }, 40_000);

  it("that does not read its answer is given up, and so is what is made for it", async () => {
    const engine = new ScriptedEngine({ model: { maxLength: 1_000_000 } });
    await using served = await start(engine, { sendTimeout: 0.5 });
    const body = { prompt: "x", max_tokens: 900_000, stream: true, dllm: { stream_steps: true } };
    const { socket } = open(served.url, post("/v1/completions", JSON.stringify(body)));
    socket.pause();
    await until(() => engine.counters.completionTokens > 1000, "a full socket", 20);
    await until(() => engine.running === 0 && served.server.open === 0, "the end of it", 20);
    expect(await metricOf(served, 'connections_dropped_total{reason="stalled"}')).toBe(1);
    socket.destroy();
  }, 60_000);

  it("that is worked for is not given up, however long nothing comes", async () => {
    const engine = new ScriptedEngine({ blockTime: 1500 });
    await using served = await start(engine, { sendTimeout: 0.2, idleTimeout: 0.2 });
    expect((await served.post("/v1/completions", { prompt: "x", max_tokens: 4 })).status).toBe(200);
  });
});

describe("many connections", () => {
  it(`${IDLE} that do nothing leave room for those that do`, async () => {
    const engine = new ScriptedEngine({ blockTime: 20 });
    await using served = await start(engine, { maxConnections: 100 });
    const working = open(served.url, post("/v1/completions", '{"prompt":"x","max_tokens":400}'));
    await until(() => engine.running === 1, "the one that works");
    const idle: Client[] = [];
    for (let i = 0; i < IDLE; i++) {
      const kinds = ["", "POST /v1/completions HTTP/1.1\r\nHost:", post("/v1/completions", "{}").slice(0, -1)];
      idle.push(open(served.url, kinds[i % kinds.length]));
      if (i % 50 === 49) await sleep(20);
    }
    expect((await fetch(`${served.url}/health`)).status).toBe(200);
    const small = await served.post("/v1/completions", { prompt: "x", max_tokens: 1 });
    expect(small.status).toBe(200);
    expect(await connections(served)).toBeLessThanOrEqual(101);
    await until(() => answersOf(working.heard()).length === 1, "the answer of the one that worked", 20);
    expect(answersOf(working.heard())).toEqual([200]);
    expect(await metricOf(served, 'connections_dropped_total{reason="evicted"}')).toBeGreaterThan(IDLE - 110);
    for (const { socket } of [...idle, working]) socket.destroy();
  }, 60_000);
});

describe("bodies", () => {
  it("of all requests together have a limit, and small ones always fit", async () => {
    const limit = 2 ** 20;
    await using served = await start(new ScriptedEngine(), { uploadLimit: limit, bodyLimit: 4 * limit });
    const big = JSON.stringify({ prompt: "x".repeat(600 * 1024), max_tokens: 1 });
    const half = post("/v1/completions", big).slice(0, -10);
    const first = open(served.url, half);
    await until(async () => (await metricOf(served, "upload_bytes")) > 500_000, "most of the first");
    const refused = await served.post("/v1/completions", big);
    expect([refused.status, (await json(refused)).error.code]).toEqual([503, "uploads_full"]);
    expect(refused.headers.get("retry-after")).toBe("1");
    // Nothing is held for what is only announced; what comes in spite of the limit is thrown away.
    const announced = Array.from({ length: 8 }, () => open(served.url, half.slice(0, 400)));
    await sleep(50);
    for (const { socket } of announced) socket.write(half.slice(400));
    await until(() => announced.filter(({ heard }) => answersOf(heard())[0] === 503).length >= 7, "their refusals");
    expect(await metricOf(served, "upload_bytes")).toBeLessThanOrEqual(limit);
    expect((await served.post("/v1/completions", { prompt: "x", max_tokens: 1 })).status).toBe(200);
    for (const { socket } of [first, ...announced]) socket.destroy();
    await until(async () => (await metricOf(served, "upload_bytes")) === 0, "nothing to be held");
    expect((await json(served.post("/v1/completions", big))).error.code).toBe("context_length_exceeded");
    expect(await metricOf(served, 'admission_rejections_total{reason="uploads_full"}')).toBeGreaterThanOrEqual(8);
  }, 30_000);

  it("that come a byte at a time cost no more than their bytes", async () => {
    await using served = await start(new ScriptedEngine());
    const text = JSON.stringify({ prompt: randomBytes(8).toString("hex"), max_tokens: 1, user: "u".repeat(1000) });
    const head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    const { socket, heard } = open(served.url, `${head}Transfer-Encoding: chunked\r\n\r\n`);
    socket.write(`${[...text].map((byte) => `1\r\n${byte}\r\n`).join("")}0\r\n\r\n`);
    await until(() => answersOf(heard()).length === 1, "the answer");
    expect(answersOf(heard())).toEqual([200]);
    socket.destroy();
  });
});
