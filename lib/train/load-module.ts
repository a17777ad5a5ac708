import * as nodeModule from "node:module";
import { pathToFileURL } from "node:url";
import { register } from "tsx/esm/api";

/**
 * Imports a user's TypeScript or JavaScript file and its dependencies as ES modules. In them `stable-diffcoder` and its
 * entry points resolve to the modules that are already running, wherever the file is: a second copy would have
 * different classes.
 *
 * @param path absolute
 * @throws any error that the file throws, and Node's or esbuild's error for a file that cannot be read or compiled
 */
export async function importFile(path: string): Promise<Record<string, unknown>> {
  const unregister = register({ tsconfig: false });
  const removeHooks = addHooks(); // after tsx's, so that they receive its results
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

/** Adds resolution hooks to Node. The returned function removes them. */
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
  // Before Node 22.15 hooks run in a separate thread, which shares no code with this one and from which they cannot be
  // removed.
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

// The source of these two functions is sent to the hooks thread, so they may use only their arguments.

/** Maps a specifier of this package to its running module; returns any other specifier unchanged. */
function ownUrl(specifier: string, root: string, extension: string): string {
  const match = /^stable-diffcoder(?:\/([a-z]+))?$/.exec(specifier);
  if (match === null) return specifier;
  return match[1] === undefined ? `${root}index.${extension}` : `${root}${match[1]}/index.${extension}`;
}

/**
 * Treats .ts files as ES modules. Without a package.json with `"type": "module"` Node takes them for CommonJS, which
 * has no top-level await. The query that tsx adds to the URL of a CommonJS file is removed, too.
 */
function asModule(resolved: Resolved): Resolved {
  const script = /^(file:.*\.ts)(?:(?:\?|%3F).*)?$/.exec(resolved.url);
  if (script === null || resolved.url.includes("/node_modules/") || !/^commonjs/.test(resolved.format ?? "")) {
    return resolved;
  }
  return { ...resolved, url: script[1], format: "module" };
}
