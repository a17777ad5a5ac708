// What one operator on tiny tensors costs beyond its arithmetic, ours against Python on the same libtorch.
//   npm run bench -- overhead [--rounds N] [--threads N] [--quick] [--json FILE]
import { fileURLToPath } from "node:url";
import * as torch from "stable-diffcoder/torch";
import { alternate, type BenchRow, benchOptions, median, report } from "./shared/harness.js";
import { findPythonWithTorch, PythonPeer, pythonMissing } from "./shared/python-peer.js";

const a = torch.tensor([1, 2, 3, 4]);
const b = torch.tensor([5, 6, 7, 8]);
const c = torch.tensor([1, 2, 3, 4]);
const g = torch.tensor([1, 2, 3, 4], { requiresGrad: true });
const m = torch.ones([4, 4]);
const x = torch.ones([8, 16]);
const s = torch.tensor(1);
const inputs = [1, 2, 3, 4];

/** The cases of peers/overhead.py. Each runs `n` times, written out so that nothing but the operator is in the loop. */
const cases: Record<string, (n: number) => void> = {
  add: (n) => {
    for (let i = 0; i < n; i++) a.add(b);
  },
  "add, requires_grad": (n) => {
    for (let i = 0; i < n; i++) g.add(b);
  },
  "mul by a scalar": (n) => {
    for (let i = 0; i < n; i++) a.mul(2.5);
  },
  "add in place": (n) => {
    for (let i = 0; i < n; i++) c.add_(b);
  },
  relu: (n) => {
    for (let i = 0; i < n; i++) a.relu();
  },
  view: (n) => {
    for (let i = 0; i < n; i++) m.view([16]);
  },
  transpose: (n) => {
    for (let i = 0; i < n; i++) m.transpose(0, 1);
  },
  "sum over a dim": (n) => {
    for (let i = 0; i < n; i++) m.sum([0]);
  },
  "sum, named arguments": (n) => {
    for (let i = 0; i < n; i++) m.sum([0], true, { dtype: "float64" });
  },
  slices: (n) => {
    for (let i = 0; i < n; i++) x.index(torch.slice(0, 4), torch.slice(2, 8));
  },
  "one index": (n) => {
    for (let i = 0; i < n; i++) x.index(1);
  },
  "matmul 4 x 4": (n) => {
    for (let i = 0; i < n; i++) m.matmul(m);
  },
  cat: (n) => {
    for (let i = 0; i < n; i++) torch.cat([m, m], 0);
  },
  softmax: (n) => {
    for (let i = 0; i < n; i++) m.softmax(-1);
  },
  zeros: (n) => {
    for (let i = 0; i < n; i++) torch.zeros([4, 4]);
  },
  "tensor from a list": (n) => {
    for (let i = 0; i < n; i++) torch.tensor(inputs);
  },
  "to bfloat16": (n) => {
    for (let i = 0; i < n; i++) m.to("bfloat16");
  },
  shape: (n) => {
    for (let i = 0; i < n; i++) x.shape;
  },
  item: (n) => {
    for (let i = 0; i < n; i++) s.item();
  },
  "forward and backward": (n) => {
    for (let i = 0; i < n; i++) {
      g.mul(b).sum().backward();
      g.grad = null;
    }
  },
};

/** Calls in one scope: what a training step's scope may hold. */
const perScope = 100;

const { rounds, quick, threads = 1 } = benchOptions();
const repeats = quick ? 3 : 9;
const scopes = quick ? 2 : 10;

/** Nanoseconds a call, scopes included: the median of the repeats. */
function measure(run: (n: number) => void): number {
  const times: number[] = [];
  for (let repeat = 0; repeat < repeats; repeat++) {
    const start = process.hrtime.bigint();
    for (let i = 0; i < scopes; i++) torch.scope(() => run(perScope));
    times.push(Number(process.hrtime.bigint() - start) / (scopes * perScope));
  }
  return median(times);
}

const found = findPythonWithTorch();
if (found === undefined) {
  console.error(pythonMissing(torch.build().torch));
  process.exit(1);
}
const peer = new PythonPeer(found.python, fileURLToPath(new URL("peers/overhead.py", import.meta.url)));
try {
  torch.setNumThreads(threads);
  await peer.ask({ threads });
  const rows: BenchRow[] = [];
  for (const [name, run] of Object.entries(cases)) {
    const theirs = async () => Number((await peer.ask({ case: name, count: scopes * perScope, repeats })).ns);
    const options = { rounds: rounds ?? (quick ? 3 : 15), warmup: 3, unit: "ns" };
    rows.push(await alternate(name, () => measure(run), theirs, options));
  }
  report("overhead: one operator on tiny tensors, in a scope, against Python", rows, { "Python's torch": found.torch });
} finally {
  peer.close();
}
