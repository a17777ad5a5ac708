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
