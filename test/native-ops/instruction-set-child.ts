/** Compares the operators with their references on the instruction set that DIFFCODER_CPU allows; prints the errors. */
import type { Tensor } from "../../lib/torch/index.js";
import * as torch from "../../lib/torch/index.js";
import { compare, DTYPES, diffcoder, difference, normal, TOLERANCE } from "./support.js";

const failures: string[] = [];
let comparisons = 0;
for (const dtype of DTYPES) {
  const pairs = (name: string, inputs: Tensor[], ...more: unknown[]) => {
    const [actual, expected] = [name, `${name}_reference`].map((op) => (...args: Tensor[]) => {
      return diffcoder[op](...args, ...more) as Tensor | Tensor[];
    });
    const worst = compare(actual, expected, inputs);
    comparisons += 1;
    if (!(worst < TOLERANCE[dtype])) failures.push(`${name} ${dtype} ${worst}`);
  };
  const [x, y, weight] = [normal([3, 5, 67], dtype, 1), normal([3, 5, 67], dtype, 2), normal([67], dtype, 3)];
  const angle = normal([70, 10], "float32", 4);
  const [q, k, v] = [
    normal([2, 70, 4, 20], dtype, 5),
    normal([2, 70, 2, 20], dtype, 6),
    normal([2, 70, 2, 20], dtype, 7),
  ];
  const targets = torch.randint(0, 67, [15], { generator: new torch.Generator({ seed: 1 }) });
  pairs("rms_norm", [x, weight], 1e-6);
  pairs("add_rms_norm", [x, y, weight], 1e-6);
  pairs("swiglu", [x, y]);
  pairs("rotary", [q], angle.cos(), angle.sin());
  pairs("linear_cross_entropy", [x.view([15, 67]), normal([67, 67], dtype, 8).mul(0.1)], targets, null, 4);
  pairs("block_diffusion_attention", [q, k, v], 4, null, null);
  pairs("causal_attention", [q, k, v], null, null);
}
// For inference: there is no gradient to compare.
for (const rows of [1, 2, 3, 4, 9]) {
  const [x, weight, bias] = [[rows, 67], [35, 67], [35]].map((shape, i) => normal(shape, "float32", i));
  const actual = torch.noGrad(() => diffcoder.linear(x, weight, bias) as Tensor);
  const worst = difference(actual, torch.linear(x.double(), weight.double(), bias.double()).float());
  comparisons += 1;
  if (!(worst < TOLERANCE.float32)) failures.push(`linear ${rows} ${worst}`);
}
console.log(JSON.stringify({ comparisons, failures }));
