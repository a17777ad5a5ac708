import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { torch } from "stable-diffcoder";
import { findPythonWithTorch, PythonPeer, pythonMissing } from "../shared/python-peer.js";
import type { WorkItem } from "./workload.js";

const script = fileURLToPath(new URL("../peers/serve.py", import.meta.url));

/** How a block is committed, on both sides. */
export type Commit = { steps: number } | { threshold: number };

export interface PeerText {
  ids: number[];
  seconds: number;
  forwards: number;
  /** Denoising passes among them. */
  denoising: number;
}

/** A Python that has torch on our libtorch, and transformers. @throws Error that says how to get it */
export function requirePython(): { python: string; versions: Record<string, string> } {
  const { torch: version } = torch.build();
  const found = findPythonWithTorch();
  if (!found) throw new Error(pythonMissing(version));
  if (found.torch.split("+")[0] !== version.split("+")[0]) {
    throw new Error(`the peer has torch ${found.torch}, ours is built on ${version}: not the same libtorch`);
  }
  const program = "import transformers, sys; sys.stdout.write(transformers.__version__)";
  const { status, stdout } = spawnSync(found.python, ["-c", program], { encoding: "utf8" });
  if (status !== 0) {
    throw new Error(
      `${found.python} cannot import transformers, whose models are the peer: ${found.python} -m pip install transformers\n` +
        "or set DIFFCODER_PYTHON to an interpreter that has it.",
    );
  }
  return { python: found.python, versions: { pytorch: found.torch, transformers: stdout.trim() } };
}

/** peers/serve.py with a checkpoint loaded. */
export class ServePeer {
  readonly #peer: PythonPeer;

  private constructor(peer: PythonPeer) {
    this.#peer = peer;
  }

  static async start(
    python: string,
    settings: {
      folder: string;
      dtype: string;
      device: string;
      threads: number;
      blockSize: number;
      maskId: number;
      parameters: number;
    },
  ): Promise<ServePeer> {
    const peer = new PythonPeer(python, script);
    const { folder, dtype, device, threads, blockSize: block_size, maskId: mask_id, parameters } = settings;
    try {
      const loaded = await peer.ask({ do: "load", folder, dtype, device, threads, block_size, mask_id });
      if (loaded.parameters !== parameters) {
        throw new Error(`the peer's model has ${loaded.parameters} parameters, ours ${parameters}`);
      }
      return new ServePeer(peer);
    } catch (error) {
      peer.close();
      throw error;
    }
  }

  async blocks(prompt: readonly number[], tokens: number, commit: Commit): Promise<PeerText> {
    return (await this.#peer.ask({ do: "blocks", prompt, tokens, ...commit })) as unknown as PeerText;
  }

  async autoregressive(prompt: readonly number[], tokens: number): Promise<PeerText> {
    return (await this.#peer.ask({ do: "autoregressive", prompt, tokens })) as unknown as PeerText;
  }

  /** Tokens a second over one request after the other, for so many seconds; and tokens by passes. */
  async serve(
    requests: readonly WorkItem[],
    seconds: number,
    commit: Commit,
  ): Promise<{ tokensPerSecond: number; tokensPerForward: number }> {
    const items = requests.map(({ ids, tokens }) => ({ prompt: ids, tokens }));
    const answer = await this.#peer.ask({ do: "serve", requests: items, seconds, ...commit });
    const tokens = Number(answer.tokens);
    return {
      tokensPerSecond: tokens / Number(answer.seconds),
      tokensPerForward: tokens / Number(answer.forwards),
    };
  }

  close(): void {
    this.#peer.close();
  }
}
