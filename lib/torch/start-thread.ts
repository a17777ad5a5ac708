import { Worker, type WorkerOptions } from "node:worker_threads";
import { calmOpenMP } from "./openmp.js";

/**
 * Starts a module of this library as a thread. Compiled, it is a module like any other; run from source, the thread must
 * first load what compiles TypeScript.
 *
 * @param name of the module, without extension
 * @param caller import.meta.url of the module beside it
 */
export function startThread(name: string, caller: string, options: WorkerOptions = {}): Worker {
  calmOpenMP();
  const isSource = caller.endsWith(".ts");
  const module = new URL(`./${name}.${isSource ? "ts" : "js"}`, caller);
  if (!isSource) return new Worker(module, { ...options, execArgv: [] });
  const compiler = import.meta.resolve("tsx/esm/api");
  const source = `import { register } from "${compiler}"; register(); await import("${module.href}");`;
  const url = new URL(`data:text/javascript,${encodeURIComponent(source)}`);
  return new Worker(url, { ...options, execArgv: preloaded() });
}

/**
 * Arguments for Node to run a module of this library in a process of its own: from source, what compiles TypeScript.
 *
 * @param caller import.meta.url of the module that starts it
 */
export function loaderArguments(caller: string): string[] {
  return caller.endsWith(".ts") ? ["--import", import.meta.resolve("tsx")] : [];
}

/** The arguments of this process that name modules to load first. */
function preloaded(): string[] {
  const kept: string[] = [];
  for (const [i, argument] of process.execArgv.entries()) {
    if (argument === "--import" || argument === "--require") kept.push(argument, process.execArgv[i + 1]);
    else if (/^--(import|require)=/.test(argument)) kept.push(argument);
  }
  return kept;
}
