// Where things lie. Everything that set-up makes is inside the checkout: .cache/, build/, dist/ and node_modules/.
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The folder that holds package.json. */
export const projectRoot = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

/**
 * Paths below a checkout.
 * @param {string} [root] the checkout; tests give a scratch copy
 */
export function pathsOf(root = projectRoot) {
  const cache = join(root, ".cache");
  return {
    root,
    cache,
    logs: join(cache, "logs"),
    lock: join(cache, "setup.lock"),
    libtorchCache: join(cache, "libtorch"),
    native: join(root, "native"),
    build: join(root, "build"),
    addon: join(root, "build", "Release", "diffcoder.node"),
    addonStamp: join(root, "build", "diffcoder.stamp.json"),
    dist: join(root, "dist"),
    distStamp: join(root, "dist", "diffcoder.stamp.json"),
    nodeModules: join(root, "node_modules"),
  };
}
