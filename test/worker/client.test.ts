import { afterEach, describe, expect, it, vi } from "vitest";
import {
  type ClientOptions,
  localLink,
  processLink,
  type StartLink,
  threadLink,
  WorkerClient,
  WorkerEnded,
} from "../../lib/worker/index.js";
import { type AnswerHandlers, answers } from "./answers.js";

const links = {
  thread: threadLink("answers-worker", import.meta.url),
  process: processLink("answers-worker", import.meta.url),
};

const clients: WorkerClient<AnswerHandlers, number>[] = [];
afterEach(async () => {
  for (const client of clients.splice(0)) await client.kill();
});

function clientOf(link: StartLink, options: ClientOptions<number> = {}) {
  const client = new WorkerClient<AnswerHandlers, number>(link, { keepsProcess: true, ...options });
  clients.push(client);
  return client;
}

/** What a worker in this thread and one elsewhere have in common. */
async function expectAnswers(client: WorkerClient<AnswerHandlers, number>, events: number[]): Promise<void> {
  const slow = client.call("later", 50);
  for (let i = 0; i < 20; i++) client.post("note", i);
  const sums = Array.from({ length: 20 }, (_, i) => client.call("add", { a: i, b: 1 }));
  expect(client.numWaiting).toBeGreaterThan(0);
  expect(await Promise.all(sums)).toEqual(Array.from({ length: 20 }, (_, i) => i + 1));
  expect(await client.call("order", undefined)).toEqual(Array.from({ length: 20 }, (_, i) => i));
  expect(await slow).toBe("late");
  await client.call("count", 5);
  expect(events).toEqual([0, 1, 2, 3, 4]);
  const failure = await client.call("fail", undefined).catch((error) => error);
  expect(failure).toMatchObject({ name: "RangeError", message: "too far", code: "TOO_FAR" });
  expect(failure.stack).toContain("answers.ts");
  await expect(client.call("failWords", undefined)).rejects.toThrow(/^just words$/);
  expect(client.numWaiting).toBe(0);
  expect(client.failure).toBeUndefined();
}

describe.each(["thread", "process"] as const)("a %s", (kind) => {
  it("answers requests in their order, sends events and errors, and stops after its reply", async () => {
    const events: number[] = [];
    const onEnd = vi.fn();
    const client = clientOf(links[kind], { onEvent: (event) => events.push(event), onEnd });
    expect(client.isReady).toBe(false);
    await client.ready;
    expect(client.isReady).toBe(true);
    expect(client.pid === undefined).toBe(kind === "thread");
    await expectAnswers(client, events);
    // A result that cannot be sent is an error of its request alone.
    await expect(client.call("give", undefined)).rejects.toThrow(/could not be cloned/);
    expect(await client.call("add", { a: 1, b: 1 })).toBe(2);
    expect(await client.call("stop", undefined)).toBe("stopped");
    await vi.waitUntil(() => onEnd.mock.calls.length > 0, 20_000);
    expect(onEnd.mock.calls[0][0]).toMatchObject({ reason: "exit code 0" });
  }, 60_000);

  it("that ends rejects what waits and what comes, with the reason, and calls onEnd once", async () => {
    const onEnd = vi.fn();
    const client = clientOf(links[kind], { onEnd });
    const waiting = client.call("later", 60_000);
    client.post("exit", 7);
    const error = await waiting.catch((thrown) => thrown);
    expect(error).toBeInstanceOf(WorkerEnded);
    expect(error.reason).toBe("exit code 7");
    expect(error.message).toBe(`the ${kind} answers-worker ended: exit code 7`);
    await expect(client.call("add", { a: 1, b: 1 })).rejects.toBe(error);
    client.post("note", 1);
    expect(client.failure).toBe(error);
    expect(onEnd.mock.calls).toEqual([[error]]);
  }, 60_000);

  it("that is killed rejects with the reason that the caller gives, and onEnd is not called", async () => {
    const onEnd = vi.fn();
    const client = clientOf(links[kind], { onEnd });
    const waiting = client.call("later", 60_000);
    const reason = new Error("closed");
    const rejection = expect(waiting).rejects.toBe(reason);
    await client.kill(reason);
    await rejection;
    await expect(client.ready).rejects.toBe(reason);
    expect(onEnd).not.toHaveBeenCalled();
  }, 60_000);

  it("ends where a request without a reply throws", async () => {
    const client = clientOf(links[kind]);
    const waiting = client.call("later", 60_000);
    client.post("throwLater", undefined);
    await expect(waiting).rejects.toBeInstanceOf(WorkerEnded);
    expect((client.failure as WorkerEnded).reason).toBe(kind === "thread" ? "thrown later" : "exit code 1");
  }, 60_000);
});

it("processes that stop lose no reply, however many stop at a time", async () => {
  for (let round = 0; round < 4; round++) {
    const stopping = Array.from({ length: 4 }, async () => {
      const client = clientOf(links.process);
      await client.ready;
      return await client.call("stop", undefined);
    });
    expect(await Promise.all(stopping)).toEqual(Array.from({ length: 4 }, () => "stopped"));
  }
}, 120_000);

it("a process that a signal ends says which", async () => {
  const client = clientOf(links.process);
  await expect(client.call("kill", undefined)).rejects.toThrow(/^the process answers-worker ended: signal SIGKILL$/);
}, 60_000);

it("a thread is given buffers, and gives them back", async () => {
  const client = clientOf(links.thread);
  const bytes = Uint8Array.of(1, 2, 3);
  const doubled = client.call("double", bytes, [bytes.buffer]);
  expect(bytes).toHaveLength(0);
  expect(await doubled).toEqual(Uint8Array.of(2, 4, 6));
  expect(() => client.post("note", (() => {}) as never)).toThrow(/could not be cloned/);
  await expect(client.call("note", (() => {}) as never)).rejects.toThrow(/could not be cloned/);
  expect(client.numWaiting).toBe(0);
});

it("a set-up that throws makes the worker unusable, with its error", async () => {
  const onEnd = vi.fn();
  const link = threadLink("answers-worker", import.meta.url, { workerData: "unusable" });
  const client = clientOf(link, {
    onEnd,
    revive: ({ name, message, code }) => (name === "TypeError" ? new SyntaxError(`${code}: ${message}`) : undefined),
  });
  await expect(client.call("add", { a: 1, b: 1 })).rejects.toThrow(SyntaxError);
  await expect(client.ready).rejects.toThrow("NO_DATA: no such data");
  expect(onEnd).toHaveBeenCalledTimes(1);
  expect(client.failure).not.toBeInstanceOf(WorkerEnded);
});

it("handlers in this thread behave alike, and begin at once", async () => {
  const events: number[] = [];
  const client = clientOf(localLink<AnswerHandlers, number>(answers), { onEvent: (event) => events.push(event) });
  await client.ready;
  await expectAnswers(client, events);
  client.post("count", 2);
  expect(events).toHaveLength(7); // already
});
