// The attention of the engine's passes, against the CPU in float64.
import { describe, expect, it } from "vitest";
import type { Tensor } from "../../lib/torch/index.js";
import * as torch from "../../lib/torch/index.js";
import { Draw, device, milliseconds, record, relativeError, sized, tolerance } from "./support.js";

const int32 = (values: number[], where = "cpu") => torch.tensor(Int32Array.from(values), { device: where });

interface Layout {
  queries: number[];
  /** Where each run's keys begin, in tokens or, with pages, which they are. */
  places: (number | number[])[];
  counts: number[];
}

const pageSize = 256;
/** Runs that share keys, runs without queries or keys, a long one. */
const shared: Layout = {
  queries: [4, 4, 1, 0, 70, 3],
  places: [0, 0, 512, 0, 600, 900],
  counts: [93, 97, 1, 0, 333, 0],
};
const paged: Layout = {
  queries: [4, 4, 1, 0, 70],
  places: [[3, 1], [3, 1], [2], [], [5, 4, 0]],
  counts: [300, 304, 7, 0, 700],
};
const causal: Layout = { queries: [40, 0, 130, 1], places: [0, 0, 300, 700], counts: [40, 0, 390, 9] };

function attend(q: Tensor, k: Tensor, v: Tensor, { queries, places, counts }: Layout, isCausal: boolean): Tensor {
  const starts = [0];
  for (const [i, count] of queries.entries()) starts.push(starts[i] + count);
  const width = Math.max(1, ...places.map((place) => (Array.isArray(place) ? place.length : 0)));
  const isPaged = places.some(Array.isArray);
  const rows = places.flatMap((place) =>
    Array.from({ length: width }, (_, i) => (Array.isArray(place) ? (place[i] ?? 0) : 0)),
  );
  const where = q.device;
  return torch.ops.diffcoder.varlen_attention(
    ...[q, k, v, int32(starts, where), int32([...places.map((place) => (isPaged ? 0 : Number(place))), 0], where)],
    ...[int32(counts, where), Math.max(...queries), isPaged ? width * pageSize : k.size(0)],
    ...[isPaged ? int32(rows, where).view([-1, width]) : null, isCausal],
  ) as Tensor;
}

const readsPages = torch.ops.diffcoder.varlen_attention_reads_pages(pageSize) as boolean;

describe.each(["float16", "bfloat16"] as const)("varlen_attention in %s", (dtype) => {
  it.each([
    ["runs that share keys", shared, false, 64],
    ["heads of 128", shared, false, 128],
    ["causal runs", causal, true, 64],
    ...(readsPages ? [["pages in place", paged, false, 128] as const] : []),
  ] as const)("%s", (name, layout, isCausal, width) => {
    torch.scope(() => {
      const draw = new Draw(5);
      const count = layout.queries.reduce((a, b) => a + b);
      const keyShape = layout === paged ? [6, pageSize, 2, width] : [1200, 2, width];
      const [q, k, v] = [[count, 8, width], keyShape, keyShape].map((shape) => draw.normal(shape, dtype));
      const expected = attend(q.double(), k.double(), v.double(), layout, isCausal);
      const got = attend(q.to(device), k.to(device), v.to(device), layout, isCausal);
      const error = relativeError(got, expected);
      record(`varlen_attention, ${name}, ${dtype}`, `error ${error.toExponential(1)}`);
      expect(error).toBeLessThan(tolerance[dtype]);
      // What no run asks for is left out, whatever is there.
      expect(got.isfinite().all().item()).toBe(1);
    });
  });
});

it("the time of a decoding batch's attention", () => {
  torch.scope(() => {
    const [sequences, keys] = sized([64, 1024], [2, 32]);
    const [q, k] = [
      torch.randn([sequences * 4, 32, 128], { device }).bfloat16(),
      torch.randn([sequences * keys, 8, 128], { device }).bfloat16(),
    ];
    const layout: Layout = {
      queries: new Array(sequences).fill(4),
      places: Array.from({ length: sequences }, (_, i) => i * keys),
      counts: new Array(sequences).fill(keys),
    };
    const time = milliseconds(() => attend(q, k, k, layout, false));
    record(`varlen_attention: ${sequences} blocks of 4, ${keys} keys each`, `${time.toFixed(2)} ms, lists included`);
  });
});
