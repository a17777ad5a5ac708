// A million operators in scopes: memory and live tensors must not grow. Prints what it measured as JSON.
import * as torch from "../../../lib/torch/index.js";

torch.setNumThreads(1);

const weight = torch.keep(torch.randn([4, 4], { requiresGrad: true }));
const x = torch.keep(torch.randn([4, 4]));
const rows = torch.keep(torch.tensor([2n, 0n]));

const scaled = torch.defineFunction({
  forward(context, t: torch.Tensor) {
    context.saveForBackward(t);
    return t.mul(2);
  },
  backward: (context, gradient) => (gradient as torch.Tensor).mul(context.saved[0].sign()).mul(2),
});

/** Every way in which tensors come about; 25 operators or more. */
function step(): void {
  torch.scope(() => {
    let y = x;
    for (let i = 0; i < 10; i++) y = y.add(x).mul(0.5);
    const part = y.index(torch.slice(0, 2), rows);
    part.indexPut_([0], 1);
    torch.cat([part, part], 0).sum([0], true, { dtype: "float64" });
    const [values] = y.topk(2);
    values.softmax(-1).tolist();
    torch.tensor([1, 2, 3]).to("bfloat16").toTypedArray();
  });
}

function learn(): void {
  torch.scope(() => {
    const loss = scaled(x.matmul(weight)).relu().sum();
    loss.backward();
    weight.grad = null;
    torch.grad([scaled(weight).sum()], [weight]);
  });
}

function fail(): void {
  torch.scope(() => {
    for (const wrong of [() => x.matmul(torch.ones([3, 3])), () => x.index(99), () => torch.cat([x, rows], 0)]) {
      try {
        wrong();
      } catch {
        // expected
      }
    }
  });
}

const perRound = 5_000;
const rounds = 40; // of 25 operators and more: a million
for (let i = 0; i < perRound; i++) {
  step();
  if (i % 10 === 0) learn();
  if (i % 50 === 0) fail();
}
const start = { rss: process.memoryUsage().rss, ...torch.memory() };
let peak = start.rss;
for (let round = 0; round < rounds; round++) {
  for (let i = 0; i < perRound / 5; i++) {
    step();
    if (i % 10 === 0) learn();
    if (i % 50 === 0) fail();
  }
  peak = Math.max(peak, process.memoryUsage().rss);
}
const end = { rss: process.memoryUsage().rss, ...torch.memory() };
console.log(
  JSON.stringify({ operators: rounds * (perRound / 5) * 25, start, end, grown: (peak - start.rss) / 2 ** 20 }),
);
