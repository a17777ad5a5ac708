import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { faultOf, readChunk, readModels, requestOf } from "../../playground/src/protocol.js";
import { applyPass, type NewPass, Recording, type Token, undoPass } from "../../playground/src/recording.js";
import { DEFAULTS, NO_TEXTS } from "../../playground/src/settings.js";

const ORIGIN = 5;

/** Passes over blocks of four that commit, and sometimes mask again, until all is committed. */
const runs = fc
  .array(fc.array(fc.nat(99), { minLength: 4, maxLength: 12 }), { minLength: 1, maxLength: 5 })
  .map((draws) => {
    const passes: NewPass[] = [];
    draws.forEach((block, number) => {
      const start = ORIGIN + 4 * number;
      const left = new Set([0, 1, 2, 3]);
      const pass = (commit: number[], remasked: number[]) => {
        for (const each of remasked) left.add(each);
        for (const each of commit) left.delete(each);
        passes.push({
          block: number,
          step: passes.length,
          start,
          end: start + 4,
          masksLeft: left.size,
          committed: commit.map((each) => ({
            position: start + each,
            id: each,
            text: "x",
            logprob: -1,
            alternatives: [],
          })),
          remasked: remasked.map((each) => start + each),
          at: passes.length,
        });
      };
      for (const draw of block) {
        if (left.size === 0) break;
        const open = [...left];
        const first = passes.length === 0;
        const again = !first && draw % 5 === 0 ? [0, 1, 2, 3].filter((each) => !left.has(each)).slice(0, 1) : [];
        pass(open.slice(0, 1 + (draw % open.length)), again);
      }
    });
    return passes;
  });

describe("a recording", () => {
  test("goes back to every earlier state, and forward again", async () => {
    await fc.assert(
      fc.property(runs, fc.array(fc.nat(60), { maxLength: 20 }), (passes, visits) => {
        const recording = new Recording();
        const states: (Token | undefined)[][] = [[]];
        for (const pass of passes) {
          const { committed } = recording.append(pass);
          const state = [...(states.at(-1) ?? [])];
          for (const position of pass.remasked) state[position - ORIGIN] = undefined;
          for (const token of committed) state[token.position - ORIGIN] = token;
          states.push(state);
          expect(recording.committed).toBe(state.filter((cell) => cell !== undefined).length);
        }
        expect(recording.origin).toBe(ORIGIN);
        const cells: (Token | undefined)[] = [...(states.at(-1) ?? [])];
        let at = passes.length;
        for (const visit of visits.map((each) => each % (passes.length + 1))) {
          while (at > visit) undoPass(cells, recording.passes[--at], ORIGIN);
          while (at < visit) applyPass(cells, recording.passes[at++], ORIGIN);
          for (let i = 0; i < recording.length; i++) expect(cells[i]).toBe(states[at][i]);
        }
      }),
    );
  });

  test("knows where the output begins when the first block holds the prompt's remainder", () => {
    const recording = new Recording();
    const token = { position: 7, id: 1, text: "a", logprob: 0, alternatives: [] };
    recording.append({ block: 0, step: 0, start: 4, end: 8, masksLeft: 1, committed: [token], remasked: [], at: 0 });
    expect(recording.origin).toBe(6); // 4 and 5 are the prompt's
    expect(recording.length).toBe(2);
  });
});

describe("chunks", () => {
  test("of completions", () => {
    const committed = [
      { position: 3, id: 9, text: "is", logprob: -0.5, top_logprobs: [{ id: 9, text: "is", logprob: -0.5 }] },
    ];
    const dllm = { index: 0, block: 2, step: 1, start: 0, end: 4, masks_left: 1, committed, remasked: [2] };
    const facts = readChunk({ choices: [{ index: 0, text: "", finish_reason: null }], dllm });
    expect(facts.passes).toEqual([
      {
        block: 2,
        step: 1,
        start: 0,
        end: 4,
        masksLeft: 1,
        remasked: [2],
        committed: [{ position: 3, id: 9, text: "is", logprob: -0.5, alternatives: [{ text: "is", logprob: -0.5 }] }],
      },
    ]);
  });

  test("of chat, their ends and their errors", () => {
    const content = [{ token: "a", logprob: -1, top_logprobs: [{ token: "b", logprob: -0.5 }] }];
    const chat = readChunk({ choices: [{ delta: { content: "a" }, logprobs: { content }, finish_reason: "stop" }] });
    expect(chat).toMatchObject({ text: "a", finishReason: "stop" });
    const usage = { prompt_tokens: 2, completion_tokens: 3, prompt_tokens_details: { cached_tokens: 1 } };
    expect(readChunk({ choices: [], usage, dllm: { forwards: 7 } })).toMatchObject({
      promptTokens: 2,
      completionTokens: 3,
      forwards: 7,
    });
    expect(readChunk({ error: { message: "m", code: "c", param: "p" } }).error).toEqual({
      message: "m",
      code: "c",
      param: "p",
    });
  });

  test("of any shape do no harm", async () => {
    await fc.assert(
      fc.property(fc.jsonValue(), fc.jsonValue(), (any, other) => {
        readChunk(any);
        readChunk({ choices: any, dllm: other, usage: any });
        readChunk({ choices: [any], dllm: { committed: other } });
        readChunk({ choices: [{ logprobs: any, text: other, delta: any }], dllm: [any, { committed: [other] }] });
        readModels(any);
        readModels({ data: [any] });
        faultOf({ error: any });
      }),
    );
  });
});

describe("requests", () => {
  const texts = { ...NO_TEXTS, prompt: "p", prefix: "a", suffix: "b", message: "m", system: "s" };

  test("hold what the settings say, and for AR decoding nothing that is about blocks", () => {
    const settings = {
      ...DEFAULTS,
      rule: "hybrid" as const,
      steps: 2,
      blockSize: 8,
      topK: 5,
      stop: "\\n\\n\nend",
      seed: 1,
    };
    const { path, body } = requestOf(settings, texts, [], "diffusion");
    expect(path).toBe("v1/completions");
    expect(body).toMatchObject({
      prompt: "p",
      top_k: 5,
      seed: 1,
      stop: ["\n\n", "end"],
      logprobs: 5,
      dllm: { mode: "diffusion", block_size: 8, commit: { rule: "hybrid", value: 0.9, steps: 2 }, stream_steps: true },
    });
    expect(body).not.toHaveProperty("suffix");
    const ar = requestOf(settings, texts, [], "autoregressive");
    expect(ar.body.dllm).toEqual({ mode: "autoregressive", stream_steps: true });
  });

  test("of infilling and chat", () => {
    const infill = requestOf({ ...DEFAULTS, task: "infill" }, texts, [], "diffusion");
    expect(infill.body).toMatchObject({ prompt: "a", suffix: "b" });
    const chat = requestOf({ ...DEFAULTS, task: "chat" }, texts, [{ role: "user", content: "u" }], "diffusion");
    expect(chat.path).toBe("v1/chat/completions");
    expect(chat.body).toMatchObject({ logprobs: true, top_logprobs: 5 });
    expect((chat.body.messages as { content: string }[]).map(({ content }) => content)).toEqual(["s", "u", "m"]);
  });
});
