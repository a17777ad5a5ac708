import { Worker, type WorkerOptions } from "node:worker_threads";

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

/**
 * libgomp's threads spin for milliseconds at every barrier. Where cores are shared with other processes they then wait for
 * each other's time slices: training steps were measured up to 20 times slower. A short spin costs next to nothing on an
 * idle machine. No spin at all, which libgomp falls to when two threads of a process run operators (an engine's and the
 * main one), makes short passes 2.5 times slower; with the policy "active" it keeps to the count there, too. Whoever set
 * one of these variables has decided. libgomp reads them as it is loaded, and not from a worker thread's copy of them: to
 * be called by whoever loads the addon, and by whoever starts a thread that will.
 */
export function calmOpenMP(): void {
  const { env } = process;
  if (env.GOMP_SPINCOUNT !== undefined || env.OMP_WAIT_POLICY !== undefined) return;
  env.GOMP_SPINCOUNT = "1000";
  env.OMP_WAIT_POLICY = "active";
  env.KMP_BLOCKTIME ??= "1"; // LLVM's OpenMP, where libtorch has that one, would read "active" as: for ever
}
