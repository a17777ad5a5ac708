// One training step of the quickstart's size, ours against the same step in eager PyTorch on the same libtorch.
//   npm run bench -- train-step [--rounds N] [--threads N] [--quick] [--compile] [--json FILE]
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import {
  adamw,
  type Batch,
  blockDiffusion,
  blockDiffusionObjective,
  Curriculum,
  clippedLinear,
  corrupt,
  cpuHasBfloat16,
  type Dataset,
  type Decoder,
  nn,
  Philox,
  StableDiffCoder,
  torch,
} from "stable-diffcoder";
import { alternate, type BenchRow, benchOptions, report } from "./shared/harness.js";
import { findPythonWithTorch, PythonPeer, pythonMissing } from "./shared/python-peer.js";

const BATCH = 8;
const LENGTH = 256;
const BLOCK_SIZE = 4;
const MASK_ID = 5;
const LR = 1e-3;
const SEED = 7;
const peerScript = fileURLToPath(new URL("peers/train_step.py", import.meta.url));

/** Random tokens: a step costs the same whatever they are. */
const data: Dataset = {
  seqLen: LENGTH,
  numSamples: 64,
  sample: (index) => {
    const random = new Philox(SEED, index);
    return { tokens: Int32Array.from({ length: LENGTH }, () => 8 + random.below(4000)) };
  },
};

/** Runs steps of a whole training run, events, meter and all, and says how long each takes. */
class OurSteps {
  readonly #run: ReturnType<Curriculum["run"]>;

  constructor(model: Decoder, bfloat16: boolean) {
    const stage = blockDiffusion({
      name: "bench",
      data,
      steps: 1_000_000,
      globalBatchSize: BATCH,
      blockSize: BLOCK_SIZE,
      noise: clippedLinear(),
      lr: LR,
      optimizer: adamw({ weightDecay: 0.1 }),
      maxGradNorm: 1,
      precision: bfloat16 ? "bfloat16" : "float32",
    });
    this.#run = new Curriculum([stage]).run({ model });
  }

  /** Milliseconds a step. */
  async steps(count: number): Promise<number> {
    let done = 0;
    const start = performance.now();
    while (done < count) {
      const { value } = await this.#run.next();
      if (value?.type === "step") done++;
    }
    return (performance.now() - start) / count;
  }

  async close(): Promise<void> {
    await this.#run.return();
  }
}

/** The batch and how it is corrupted, for both sides. */
function corruptedBatch(folder: string): Batch {
  const rows = Array.from({ length: BATCH }, (_, index) => data.sample(index).tokens);
  const tokens = Int32Array.from(rows.flatMap((row) => Array.from(row)));
  const batch = { indices: rows.map((_, index) => index), tokens, batch: BATCH, seqLen: LENGTH };
  const corruption = corrupt(batch, {
    blockSize: BLOCK_SIZE,
    noise: clippedLinear(),
    maskId: MASK_ID,
    seed: SEED,
    stage: 0,
  });
  const masked = new Uint8Array(tokens.length);
  const weights = new Float32Array(tokens.length);
  for (const [i, at] of corruption.positions.entries()) {
    masked[at] = 1;
    weights[at] = corruption.weights[i];
  }
  torch.scope(() => {
    const asRows = (array: Int32Array | Uint8Array | Float32Array) => torch.tensor(array).view([BATCH, LENGTH]);
    const tensors = {
      clean: asRows(tokens),
      noisy: asRows(corruption.noisy),
      masked: asRows(masked),
      weights: asRows(weights),
    };
    torch.saveSafetensors(join(folder, "batch.safetensors"), tensors);
  });
  return batch;
}

function ourLoss(model: Decoder, batch: Batch, bfloat16: boolean): { loss: number; norm: number } {
  const objective = blockDiffusionObjective({ blockSize: BLOCK_SIZE, noise: clippedLinear() });
  const context = { seed: SEED, stage: 0, step: 0, steps: 1, device: "cpu", state: {} };
  return torch.scope(() => {
    const { loss, normalizer } = torch.autocast({ device: "cpu", dtype: "bfloat16", enabled: bfloat16 }, () =>
      objective(model, batch, context),
    );
    loss.backward();
    const norm = nn.gradNorm(model.parameters()).item() / normalizer;
    model.zeroGrad();
    return { loss: loss.item() / normalizer, norm };
  });
}

/** Both must compute the same thing before it means anything who is faster. */
async function verify(model: Decoder, batch: Batch, peer: PythonPeer, bfloat16: boolean): Promise<void> {
  for (const half of bfloat16 ? [false, true] : [false]) {
    const ours = ourLoss(model, batch, half);
    const theirs = await peer.ask({ do: "loss", bfloat16: half });
    const differences = [ours.loss / Number(theirs.loss) - 1, ours.norm / Number(theirs.grad_norm) - 1].map(Math.abs);
    const name = half ? "bfloat16 autocast" : "float32";
    console.log(
      `${name}: loss ${ours.loss.toFixed(6)} and ${Number(theirs.loss).toFixed(6)}, ` +
        `gradient norm ${ours.norm.toFixed(6)} and ${Number(theirs.grad_norm).toFixed(6)}`,
    );
    if (!(Math.max(...differences) < (half ? 1e-2 : 1e-5))) throw new Error(`${name}: the two steps are not the same`);
  }
}

async function main(): Promise<void> {
  const { rounds, quick, threads } = benchOptions();
  if (threads !== undefined) torch.setNumThreads(threads);
  const count = quick ? 1 : 3;
  const bfloat16 = cpuHasBfloat16();
  const python = findPythonWithTorch();
  const { torch: version } = torch.build();
  if (!python) throw new Error(pythonMissing(version));
  if (python.torch.split("+")[0] !== version.split("+")[0]) {
    throw new Error(`the peer has torch ${python.torch}, ours is built on ${version}: not the same libtorch`);
  }
  const folder = mkdtempSync(join(tmpdir(), "diffcoder-train-step-"));
  using coder = StableDiffCoder.fromConfig("tiny", { seed: SEED });
  await coder.savePretrained(folder);
  const batch = corruptedBatch(folder);
  const peer = new PythonPeer(python.python, peerScript, [folder]);
  const rows: BenchRow[] = [];
  try {
    const setup = {
      do: "setup",
      threads: torch.getNumThreads(),
      block_size: BLOCK_SIZE,
      mask_id: MASK_ID,
      bfloat16,
      lr: LR,
    };
    await peer.ask({ ...setup, optimizer: "default" });
    await verify(coder.model, batch, peer, bfloat16);
    const ours = new OurSteps(coder.model, bfloat16);
    const title = `${BATCH} x ${LENGTH}, B = ${BLOCK_SIZE}, ${bfloat16 ? "bf16 autocast" : "fp32"}`;
    const details = { parameters: coder.model.numParameters(), stepsPerRound: count };
    const peers = [
      { name: `eager, AdamW as it comes; ${title}`, optimizer: "default" },
      { name: `eager, AdamW(fused=True); ${title}`, optimizer: "fused" },
      ...(process.argv.includes("--compile")
        ? [{ name: `torch.compile, fused AdamW; ${title}`, optimizer: "fused", compile: true }]
        : []),
    ];
    for (const { name, ...options } of peers) {
      await peer.ask({ ...setup, ...options });
      const theirs = async () => Number((await peer.ask({ do: "steps", count })).ms);
      const settings = { rounds: rounds ?? (quick ? 3 : 9), warmup: quick ? 1 : 2, details };
      rows.push(await alternate(name, () => ours.steps(count), theirs, settings));
    }
    await ours.close();
    report(`Training step, ${(details.parameters / 1e6).toFixed(1)}M parameters`, rows, { pytorch: python.torch });
  } finally {
    peer.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

await main();
