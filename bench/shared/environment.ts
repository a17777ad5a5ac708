/** The environment for a process that is measured, without what our library has set here for its own OpenMP. */
export function cleanEnvironment(): NodeJS.ProcessEnv {
  const { GOMP_SPINCOUNT: _, OMP_WAIT_POLICY: __, KMP_BLOCKTIME: ___, ...env } = process.env;
  return env;
}
