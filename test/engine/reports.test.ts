import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { EngineError } from "../../lib/engine/errors.js";
import { type CoreReport, Reports } from "../../lib/engine/reports.js";
import type { CommittedToken, EngineEvent } from "../../lib/engine/types.js";

const text = (id: number, index = 0): EngineEvent => {
  const token: CommittedToken = { position: id, id, text: `<${id}>`, logprob: -1, step: 0, block: 0 };
  return { type: "text", index, text: token.text, ids: [id], tokens: [token] };
};
const start: EngineEvent = { type: "start", index: 0, promptTokens: 3, cachedTokens: 0 };
const denoise: EngineEvent = {
  ...{ type: "denoise", index: 0, block: 0, step: 0 },
  ...{ start: 0, end: 4, masksLeft: 3, committed: [] },
};

describe("reports", () => {
  let sent: CoreReport[][];
  const idsOf = () =>
    sent.map((reports) => reports.map(({ events }) => events.flatMap((event) => ("ids" in event ? event.ids : []))));
  const paced = (interval: number) => new Reports((reports) => sent.push(reports), interval);
  beforeEach(() => {
    sent = [];
    vi.useFakeTimers({ toFake: ["performance"], now: 1000 });
  });
  afterEach(() => void vi.useRealTimers());

  /** Passes of `passMs`, each of which brings a token of every request. */
  function passes(reports: Reports, count: number, passMs: number, keys = [1]): void {
    for (let i = 0; i < count; i++) {
      vi.advanceTimersByTime(passMs);
      for (const key of keys) reports.emit(key, [text(10 * key + i)]);
      reports.pace(passMs);
    }
  }

  it("of short passes wait for each other, up to the interval; the first text does not", () => {
    passes(paced(10), 10, 3);
    // After the first, the fourth pass would come after 12 ms.
    expect(idsOf()).toEqual([[[10]], [[11, 12, 13]], [[14, 15, 16]], [[17, 18, 19]]]);
    expect(sent[1][0].events).toEqual([
      { ...text(11), text: "<11><12><13>", ids: [11, 12, 13], tokens: [11, 12, 13].flatMap(tokensOf) },
    ]);
  });
  const tokensOf = (id: number) => (text(id) as Extract<EngineEvent, { type: "text" }>).tokens;

  it("of passes as long as the interval go at once, and with an interval of 0 all do", () => {
    passes(paced(10), 4, 10);
    passes(paced(0), 4, 0.01);
    expect(idsOf()).toEqual([[[10]], [[11]], [[12]], [[13]], [[10]], [[11]], [[12]], [[13]]]);
  });

  it("a request's first text takes along what waits of others; its end does, too, with an error as well", () => {
    const reports = paced(1000);
    passes(reports, 3, 1, [1]);
    passes(reports, 2, 1, [1, 2]);
    reports.emit(1, [text(99)]);
    reports.end(1);
    reports.pace(1);
    const error = new EngineError("ENGINE_MODEL", "no");
    reports.fail(2, error);
    reports.end(2);
    reports.pace(1);
    expect(idsOf()).toEqual([[[10]], [[11, 12, 10], [20]], [[11, 99], [21]], [[]]]);
    expect(sent.map((all) => all.map(({ key, last }) => [key, last]))).toEqual([
      [[1, false]],
      [
        [1, false],
        [2, false],
      ],
      [
        [1, true],
        [2, false],
      ],
      [[2, true]],
    ]);
    expect(sent[3][0].error).toBe(error);
  });

  it("a key that is used again is a new request", () => {
    const reports = paced(1000);
    for (let round = 0; round < 2; round++) {
      passes(reports, 1, 1);
      reports.end(1);
      reports.pace(1);
    }
    expect(sent.length).toBe(4);
  });

  it("keep the order of events; only text next to text of the same choice is joined", () => {
    const reports = paced(10);
    reports.emit(1, [start, denoise, text(1), denoise, text(2), text(3, 1), text(4)]);
    reports.emit(1, [text(5)]);
    reports.flush();
    reports.flush();
    expect(sent.length).toBe(1);
    expect(sent[0][0].events.map((event) => [event.type, "ids" in event ? event.ids : []])).toEqual([
      ...[
        ["start", []],
        ["denoise", []],
        ["text", [1]],
        ["denoise", []],
        ["text", [2]],
        ["text", [3]],
      ],
      ["text", [4, 5]],
    ]);
  });
});
