import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from "node:child_process";
import { createInterface, type Interface } from "node:readline";
import { cleanEnvironment } from "./environment.js";

/** What a peer script answers to a command, one JSON object a line. */
export type PeerAnswer = Record<string, unknown>;

/**
 * A Python with torch: DIFFCODER_PYTHON, else the first of python3 and python that imports it. undefined: there is none.
 */
export function findPythonWithTorch(): { python: string; torch: string } | undefined {
  const named = process.env.DIFFCODER_PYTHON;
  for (const python of named ? [named] : ["python3", "python"]) {
    const program = "import torch, sys; sys.stdout.write(torch.__version__)";
    const { status, stdout } = spawnSync(python, ["-c", program], { encoding: "utf8" });
    if (status === 0) return { python, torch: stdout.trim() };
  }
  return undefined;
}

/** What to type where {@link findPythonWithTorch} found none. */
export function pythonMissing(torchVersion: string): string {
  const named = process.env.DIFFCODER_PYTHON;
  return [
    named ? `DIFFCODER_PYTHON=${named} cannot import torch.` : "No python3 that imports torch was found.",
    `The peer is PyTorch on the same libtorch: python3 -m pip install torch==${torchVersion} numpy safetensors`,
    "or set DIFFCODER_PYTHON to an interpreter that has them.",
  ].join("\n");
}

/**
 * A peer written in Python that stays alive between measurements: commands and answers are lines of JSON on its standard
 * input and output, so that ours and the peer can be measured in turns.
 */
export class PythonPeer {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #lines: Interface;
  readonly #answers: AsyncIterator<string>;
  #errors = "";

  constructor(python: string, script: string, args: readonly string[] = []) {
    this.#child = spawn(python, ["-u", script, ...args], { stdio: "pipe", env: cleanEnvironment() });
    this.#child.on("error", (error) => {
      this.#errors += error.message;
    });
    this.#child.stderr.on("data", (data: Buffer) => {
      this.#errors = (this.#errors + data.toString()).slice(-4000);
    });
    this.#lines = createInterface({ input: this.#child.stdout });
    this.#answers = this.#lines[Symbol.asyncIterator]();
  }

  /** Sends one command and waits for its answer; throws what the script printed when it dies instead. */
  async ask(command: Record<string, unknown>): Promise<PeerAnswer> {
    this.#child.stdin.write(`${JSON.stringify(command)}\n`);
    const { value, done } = await this.#answers.next();
    if (done) throw new Error(`the peer died:\n${this.#errors}`);
    return JSON.parse(value) as PeerAnswer;
  }

  close(): void {
    this.#lines.close();
    this.#child.stdin.end();
    this.#child.kill();
  }
}
