// Plain tensor code: creation, indexing, autograd, random numbers, files, and memory.
//
//   npx tsx examples/tensors.ts
import { rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as torch from "stable-diffcoder/torch";

const device = torch.cuda.isAvailable() ? "cuda" : "cpu";
console.log(`libtorch ${torch.build().torch} on ${device}`);

// A scope frees the tensors created in it, except those that are returned. Use one in every loop.
torch.scope(() => {
  const x = torch.arange(12, { dtype: "float32", device }).view([3, 4]);
  console.log("x[1:, ::2] =", x.index(torch.slice(1), torch.slice(null, null, 2)));
  console.log("x.sum(dim = 1, keepdim) =", x.sum([1], true).tolist());
  console.log("where it is even =", x.index(x.remainder(2).eq(0)).tolist());
});

// Fit y = 3 x + 0.5 by gradient descent. Parameters outlive the steps: they are created outside of the scopes.
const weight = torch.zeros([1], { device, requiresGrad: true });
const bias = torch.zeros([1], { device, requiresGrad: true });
using generator = new torch.Generator({ seed: 7, device });
for (let step = 0; step < 300; step++) {
  torch.scope(() => {
    const x = torch.rand([32], { device, generator });
    const y = x.mul(3).add(0.5);
    const loss = x.mul(weight).add(bias).sub(y).square().mean();
    loss.backward();
    torch.noGrad(() => {
      for (const parameter of [weight, bias]) {
        parameter.sub_((parameter.grad as torch.Tensor).mul(0.3));
        parameter.grad = null;
      }
    });
    if (step % 100 === 0) console.log(`step ${step}: loss ${loss.item().toExponential(2)}`);
  });
}
console.log(`y = ${weight.item().toFixed(3)} x + ${bias.item().toFixed(3)}`);

// An operator with a custom gradient: rounding that passes gradients through.
const straightThrough = torch.defineFunction({
  forward: (_, x: torch.Tensor) => x.round(),
  backward: (_, gradient) => gradient,
});
torch.scope(() => {
  const x = torch.tensor([0.2, 0.7, 1.6], { requiresGrad: true });
  const y = straightThrough(x);
  y.square().sum().backward();
  console.log("round passes", x.grad?.tolist(), "for", y.detach().tolist());
});

// Any operator of libtorch can be called by its own name, if there is no method for it.
torch.scope(() => {
  const [a, b] = torch.ops.aten._foreach_mul([torch.ones([2]), torch.ones([3])], 2) as torch.Tensor[];
  console.log("_foreach_mul gives", a.tolist(), b.tolist());
});

// Files in the format of Python's safetensors.
const path = join(tmpdir(), `tensors-${process.pid}.safetensors`);
torch.saveSafetensors(path, { weight, bias }, { note: "y = 3 x + 0.5" });
torch.scope(() => {
  using file = torch.openSafetensors(path);
  console.log("saved", file.keys(), file.metadata, file.get("weight"));
});
rmSync(path);

// Errors have codes, and name the operator and the shapes.
torch.scope(() => {
  try {
    torch.ones([2, 3]).matmul(torch.ones([2, 3]));
  } catch (error) {
    if (error instanceof torch.TorchError) console.log(`${error.code} ${error.message}`);
  }
});

weight.dispose();
bias.dispose();
console.log("alive at the end:", torch.memory().tensors);
