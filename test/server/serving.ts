import { type ChildProcess, spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll } from "vitest";
import { root } from "../cli/support.js";
import { until } from "./support.js";

const children: ChildProcess[] = [];
afterAll(() => {
  for (const child of children.splice(0)) if (child.exitCode === null) child.kill("SIGKILL");
});

export interface Serving {
  child: ChildProcess;
  url: string;
  stderr: () => string;
  /** Its log, as far as it was read. */
  stdout: () => string;
  post: (body: object) => Promise<Response>;
}

/** `diffcoder serve` as a process: compiled, its engine in a process of its own. It is gone after the file's tests. */
export async function serve(model: string, ...args: string[]): Promise<Serving> {
  const child = spawn(process.execPath, [join(root, "bin", "diffcoder.mjs"), "serve", model, "--port", "0", ...args], {
    env: { ...process.env, OMP_NUM_THREADS: "1", NO_COLOR: "1", FORCE_COLOR: undefined },
    stdio: ["ignore", "pipe", "pipe"],
  });
  children.push(child);
  let stderr = "";
  child.stderr?.on("data", (chunk) => {
    stderr += chunk;
  });
  let stdout = "";
  child.stdout?.on("data", (chunk) => {
    stdout += chunk;
  });
  await until(() => stderr.includes("access") || child.exitCode !== null, "the start", 60);
  const url = /(https?:\/\/\S+?)\/v1/.exec(stderr)?.[1] ?? "";
  const headers = { "content-type": "application/json" };
  const post = (body: object) =>
    fetch(`${url}/v1/completions`, { method: "POST", headers, body: JSON.stringify(body) });
  return { child, url, stderr: () => stderr, stdout: () => stdout, post };
}

/** The value of a metric that has one. */
export async function metric(url: string, name: string): Promise<number> {
  const metrics = await (await fetch(`${url}/metrics`)).text();
  return Number(new RegExp(`^diffcoder:${name}\\S* (\\S+)$`, "m").exec(metrics)?.[1]);
}

/** Resident memory of a process, in bytes (proc(5)). */
export function residentBytes(pid: number): number {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) * 1024;
}

/** Children of a process, and theirs. */
export function descendants(pid: number): number[] {
  const own = readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      try {
        return (
          Number(
            readFileSync(`/proc/${name}/stat`, "utf8")
              .replace(/^.*\) /, "")
              .split(" ")[1],
          ) === pid
        );
      } catch {
        return false;
      }
    });
  return own.map(Number).flatMap((each) => [each, ...descendants(each)]);
}
