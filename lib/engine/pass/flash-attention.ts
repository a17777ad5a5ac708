import type { Tensor } from "../../torch/index.js";
import * as torch from "../../torch/index.js";
import { type AttentionInputs, type PagedAttention, store } from "./attention.js";
import { mostPages, type Pass, pageTable, type Rounding, SCRATCH } from "./pass.js";

/** Fewer causal queries than this become runs of one: a second call of the kernel costs more. */
const FEW = 8;

/** Neighbouring queries of a sequence that see the same keys, or (causal) each one more than the one before. */
interface Run {
  sequence: number;
  queries: number;
  /** Keys that the last query sees. */
  keys: number;
  causal: boolean;
}

/**
 * By libtorch's flash kernel for sequences of any length, without a mask: all queries of a block see the same keys, so
 * that each block is a sequence to the kernel. A prompt that is decoded token by token is one causal sequence.
 *
 * The kernel of libtorch 2.13 (not that of 2.11) reads pages of a multiple of 256 tokens where they are. Others are gathered
 * first, once for each sequence; runs of one sequence share its keys.
 *
 * @param readsPages default: where libtorch can
 */
export function flashAttention(
  readsPages = (pageSize: number) => torch.ops.diffcoder.varlen_attention_reads_pages(pageSize) as boolean,
): PagedAttention {
  return {
    describe(pass, pageSize, rounding) {
      const runs = runsOf(pass);
      const widest = rounding.coarse(Math.max(...runs.map(({ queries }) => queries)));
      addPadding(runs, pass, widest);
      const inPlace = readsPages(pageSize);
      const keys = inPlace ? tableOf(runs, pass, rounding) : gatherOf(runs, pass, pageSize, rounding);
      return describeRuns(runs, pass, keys, { widest, inPlace: Number(inPlace) }, rounding);
    },

    attend(pages, { int32, int64 }, { runs, widest, inPlace, plain, causal }) {
      const slots = int64("slots");
      const [queryStarts, keyStarts, plainKeys, causalKeys] = [
        "queryStarts",
        "keyStarts",
        "plainKeys",
        "causalKeys",
      ].map(int32);
      const table = inPlace ? int32("table").view([runs, -1]) : null;
      const gathered = inPlace ? null : int64("gathered");
      const longest = (table ? table.size(1) : (gathered as Tensor).size(0)) * pages.pageSize;
      const held = (memory: Tensor, heads: number, width: number) =>
        gathered ? memory.indexSelect(0, gathered).view([-1, heads, width]) : memory;
      return (layer, q, k, v) => {
        const [, asked, heads, width] = q.shape;
        store(pages, layer, slots, k, v);
        if (asked < k.size(1)) return q;
        const [ks, vs] = [pages.keys, pages.values].map((all) => held(all[layer], k.size(2), width));
        const rows = q.view([-1, heads, width]);
        const run = (counts: Tensor, isCausal: boolean) =>
          torch.ops.diffcoder.varlen_attention(
            ...([rows, ks, vs, queryStarts, keyStarts, counts, widest, longest, table, isCausal] as const),
          ) as Tensor;
        // Queries of the other kind have no keys in a call, and their result is 0.
        if (!causal) return run(plainKeys, false).view(q.shape);
        const out = run(causalKeys, true);
        return (plain ? out.add(run(plainKeys, false)) : out).view(q.shape);
      };
    },
  };
}

function runsOf({ starts, pages, visible }: Pass): Run[] {
  const runs: Run[] = [];
  for (const sequence of pages.keys()) {
    const [first, end] = [starts[sequence], starts[sequence + 1]];
    const rises = (by: number, at: number) => visible[at] === visible[at - 1] + by;
    let causal = end - first >= FEW;
    for (let at = first + 1; causal && at < end; at++) causal = rises(1, at);
    for (let at = first, begin = first; at < end; at++) {
      if (at + 1 < end && rises(causal ? 1 : 0, at + 1)) continue;
      runs.push({ sequence, queries: at + 1 - begin, keys: visible[at], causal });
      begin = at + 1;
    }
  }
  return runs;
}

/** Padding tokens see one key, any one: their rows must not be NaN. */
function addPadding(runs: Run[], { starts, pages, visible }: Pass, widest: number): void {
  for (let left = visible.length - starts[pages.length]; left > 0; left -= widest) {
    runs.push({ sequence: -1, queries: Math.min(left, widest), keys: 1, causal: false });
  }
}

/** Where each run's keys begin, and the list of pages that they are in. */
interface KeyPlaces {
  lists: Record<string, Int32Array>;
  starts: number[];
}

function gatherOf(runs: readonly Run[], { pages }: Pass, pageSize: number, { fine }: Rounding): KeyPlaces {
  const begins: number[] = [];
  let count = 0;
  for (const own of pages) {
    begins.push(count * pageSize);
    count += own.length;
  }
  const gathered = new Int32Array(fine(count)).fill(SCRATCH);
  gathered.set(pages.flat());
  return { lists: { gathered }, starts: runs.map(({ sequence }) => begins[sequence] ?? 0) };
}

function tableOf(runs: readonly Run[], { pages }: Pass, { coarse }: Rounding): KeyPlaces {
  const rows = runs.map(({ sequence }) => pages[sequence] ?? [SCRATCH]);
  const table = pageTable(rows, coarse(mostPages(pages)), coarse(runs.length));
  return { lists: { table }, starts: runs.map(() => 0) };
}

function describeRuns(
  runs: readonly Run[],
  { visible }: Pass,
  keys: KeyPlaces,
  sizes: { widest: number; inPlace: number },
  { coarse }: Rounding,
): AttentionInputs {
  const count = coarse(runs.length);
  // Runs beyond these have neither queries nor keys.
  const queryStarts = new Int32Array(count + 1).fill(visible.length);
  const keyStarts = new Int32Array(count + 1);
  const plainKeys = new Int32Array(count);
  const causalKeys = new Int32Array(count);
  let at = 0;
  for (const [i, run] of runs.entries()) {
    queryStarts[i] = at;
    at += run.queries;
    keyStarts[i] = keys.starts[i];
    (run.causal ? causalKeys : plainKeys)[i] = run.keys;
  }
  const causal = Number(runs.some((run) => run.causal));
  const plain = Number(runs.some((run) => !run.causal));
  return {
    lists: { ...keys.lists, queryStarts, keyStarts, plainKeys, causalKeys },
    sizes: { ...sizes, runs: count, plain, causal },
  };
}
