import * as nodeModule from "node:module";
import { pathToFileURL } from "node:url";
import { register } from "tsx/esm/api";

/**
 * Imports a user's TypeScript or JavaScript file, and what it imports, as ES modules. In them `stable-diffcoder` and its
 * entry points are the very modules that run now, wherever the file lies: a second copy would have classes of its own.
 *
 * @param path absolute
 * @throws whatever the file throws, and what Node and esbuild say of a file that cannot be read or compiled
 */
export async function importFile(path: string): Promise<Record<string, unknown>> {
  const unregister = register({ tsconfig: false });
  const removeHooks = addHooks(); // after tsx's, so that they see its answers
  try {
    return (await import(pathToFileURL(path).href)) as Record<string, unknown>;
  } finally {
    removeHooks();
    await unregister();
  }
}

interface Resolved {
  url: string;
  format?: string | null;
}
type Next = (specifier: string, context: unknown) => Resolved;
type RegisterHooks = (hooks: { resolve(specifier: string, context: unknown, next: Next): Resolved }) => {
  deregister(): void;
};

/** Adds our way of resolving modules to Node's, until the function it gives back is called. */
function addHooks(): () => void {
  const own = import.meta.url;
  const extension = own.endsWith(".ts") ? "ts" : "js"; // run from source, or compiled
  const root = new URL("../", own).href;
  const { registerHooks } = nodeModule as { registerHooks?: RegisterHooks };
  if (registerHooks) {
    const hooks = registerHooks({
      resolve: (specifier, context, next) => asModule(next(ownUrl(specifier, root, extension), context)),
    });
    return () => hooks.deregister();
  }
  // Before Node 22.15 hooks live in a thread of their own, which shares no code with this one and cannot be left.
  const source = `
    const ownUrl = ${ownUrl}, asModule = ${asModule}, __name = (value) => value;
    let root, extension;
    export function initialize(data) { ({ root, extension } = data); }
    export async function resolve(specifier, context, next) {
      return asModule(await next(ownUrl(specifier, root, extension), context));
    }`;
  const url = `data:text/javascript,${encodeURIComponent(source)}`;
  nodeModule.register(url, { parentURL: own, data: { root, extension } });
  return () => {};
}

// The text of these two goes to the other thread: they use nothing but their arguments.

/** The module of ours that a specifier names; any other specifier as it is. */
function ownUrl(specifier: string, root: string, extension: string): string {
  const match = /^stable-diffcoder(?:\/([a-z]+))?$/.exec(specifier);
  if (match === null) return specifier;
  return match[1] === undefined ? `${root}index.${extension}` : `${root}${match[1]}/index.${extension}`;
}

/**
 * Without a package.json that says otherwise .ts is CommonJS to Node, in which there is no top-level await. What tsx adds
 * to the address of such a file goes with it.
 */
function asModule(resolved: Resolved): Resolved {
  const script = /^(file:.*\.ts)(?:(?:\?|%3F).*)?$/.exec(resolved.url);
  if (script === null || resolved.url.includes("/node_modules/") || !/^commonjs/.test(resolved.format ?? "")) {
    return resolved;
  }
  return { ...resolved, url: script[1], format: "module" };
}
