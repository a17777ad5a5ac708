import * as nodeModule from "node:module";
import { pathToFileURL } from "node:url";
import { register } from "tsx/esm/api";

/**
 * Imports a user's TypeScript or JavaScript file. In it `stable-diffcoder` and its entry points are the very modules that
 * run now, wherever the file lies: a second copy would have classes and a native addon of its own.
 *
 * @param path absolute
 * @throws whatever the file throws, and what Node and esbuild say of a file that cannot be read or compiled
 */
export async function importFile(path: string): Promise<Record<string, unknown>> {
  pinOwnModules();
  const unregister = register({ tsconfig: false });
  try {
    // The time keeps a file that was changed from being answered out of the cache.
    return (await import(`${pathToFileURL(path).href}?${Date.now()}`)) as Record<string, unknown>;
  } finally {
    await unregister();
  }
}

interface Resolved {
  url: string;
  shortCircuit?: boolean;
}

type SynchronousHooks = (hooks: {
  resolve(specifier: string, context: unknown, next: (specifier: string, context: unknown) => Resolved): Resolved;
}) => void;

let pinned = false;

function pinOwnModules(): void {
  if (pinned) return;
  pinned = true;
  const own = import.meta.url;
  const extension = own.endsWith(".ts") ? "ts" : "js"; // run from source, or compiled
  const root = new URL("../", own).href;
  const { registerHooks } = nodeModule as { registerHooks?: SynchronousHooks };
  if (registerHooks) {
    registerHooks({
      resolve(specifier, context, next) {
        const url = ownUrl(specifier, root, extension);
        return url === undefined ? next(specifier, context) : { url, shortCircuit: true };
      },
    });
    return;
  }
  // Before Node 22.15 hooks live in a thread of their own, which is given them as text.
  const source = `
    ${ownUrl.toString().replaceAll("__name(", "(")}
    let root, extension;
    export function initialize(data) { ({ root, extension } = data); }
    export async function resolve(specifier, context, next) {
      const url = ownUrl(specifier, root, extension);
      return url === undefined ? next(specifier, context) : { url, shortCircuit: true };
    }`;
  const hooks = `data:text/javascript,${encodeURIComponent(source)}`;
  nodeModule.register(hooks, { parentURL: own, data: { root, extension } });
}

/** The module of ours that a specifier names; undefined for others. Self-contained: its text is sent to another thread. */
function ownUrl(specifier: string, root: string, extension: string): string | undefined {
  const match = /^stable-diffcoder(?:\/([a-z]+))?$/.exec(specifier);
  if (!match) return undefined;
  return match[1] ? `${root}${match[1]}/index.${extension}` : `${root}index.${extension}`;
}
