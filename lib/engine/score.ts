import { diffusionTokenBounds } from "../diffusion/token-bounds.js";
import { causalPlan } from "../model/attention-plan.js";
import type { Decoder } from "../model/decoder.js";
import type { Tensor } from "../torch/index.js";
import * as torch from "../torch/index.js";
import type { ScoreSettings } from "./options.js";
import { sequenceSeed } from "./sample-token.js";
import type { ScoreResult, TopLogprob } from "./types.js";

/** Rows of logits that exist at once. */
const CHUNK = 256;

/** Up to this block size the bound is summed over every mask: 15 passes for 4 tokens. */
const MOST_EXACT = 4;
/** Monte Carlo samples of the masks for larger blocks. */
const DEFAULT_MC_SAMPLES = 16;

/** What a score depends on besides the text. */
export interface ScoreContext {
  textOf(id: number): string;
  maskId: number;
  shift: boolean;
  /** Ends it between two passes. */
  signal?: AbortSignal;
}

/**
 * Log-likelihood of a text: autoregressive, the logprob of each token given those before; diffusion, what each token adds
 * to the bound of Eq. 4.
 */
export async function score(
  model: Decoder,
  tokens: Int32Array,
  settings: ScoreSettings & { blockSize: number },
  { textOf, maskId, shift, signal }: ScoreContext,
): Promise<ScoreResult> {
  if (settings.mode === "diffusion") {
    const { blockSize, logprobs: top } = settings;
    const mcSamples = settings.mcSamples ?? (blockSize > MOST_EXACT ? DEFAULT_MC_SAMPLES : undefined);
    const seed = sequenceSeed(settings.seed, 0);
    const bounds = await diffusionTokenBounds(model, tokens, {
      blockSize,
      maskId,
      shift,
      mcSamples,
      seed,
      top,
      signal,
    });
    const named = bounds.top?.map((each) => each?.map((one) => ({ ...one, text: textOf(one.id) })) ?? null);
    return {
      mode: "diffusion",
      logprobs: bounds.logprobs,
      ...(named && { topLogprobs: named }),
      nll: bounds.nll,
      tokens: Math.max(0, tokens.length - 1),
      standardError: bounds.standardError,
      mcSamples: bounds.mcSamples,
    };
  }
  const logprobs: (number | null)[] = [null];
  const top: (TopLogprob[] | null)[] = [null];
  torch.scope(() =>
    torch.noGrad(() => {
      const { device } = model;
      const ids = torch.tensor(tokens, { device }).to({ dtype: "int64" });
      const hidden = model.forward(ids.view([1, -1]), causalPlan(tokens.length, { device })).select(0, 0);
      for (let from = 0; from + 1 < tokens.length; from += CHUNK) {
        const count = Math.min(CHUNK, tokens.length - 1 - from);
        torch.scope(() => {
          const rows = model
            .logits(hidden.narrow(0, from, count))
            .to({ dtype: "float64" })
            .logSoftmax(1);
          const picked = rows.gather(1, ids.narrow(0, from + 1, count).unsqueeze(1)).toTypedArray();
          for (let i = 0; i < count; i++) logprobs.push(Number(picked[i]));
          if (settings.logprobs > 0) top.push(...mostLikely(rows, settings.logprobs, textOf));
        });
      }
    }),
  );
  const nll = logprobs.reduce<number>((sum, value) => sum - (value ?? 0), 0);
  return {
    mode: "autoregressive",
    logprobs,
    ...(settings.logprobs > 0 && { topLogprobs: top }),
    nll,
    tokens: Math.max(0, tokens.length - 1),
    standardError: 0,
    mcSamples: 1,
  };
}

function mostLikely(rows: Tensor, wanted: number, textOf: (id: number) => string): TopLogprob[][] {
  const k = Math.min(wanted, rows.size(1));
  const [values, ids] = (rows.topk(k, 1) as [Tensor, Tensor]).map((tensor) => tensor.toTypedArray());
  return Array.from({ length: rows.size(0) }, (_, row) =>
    Array.from({ length: k }, (_, j) => {
      const id = Number(ids[row * k + j]);
      return { id, text: textOf(id), logprob: Number(values[row * k + j]) };
    }),
  );
}
