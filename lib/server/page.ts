import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { extname, join, sep } from "node:path";
import { fileURLToPath } from "node:url";
import type { FastifyInstance } from "fastify";

const TYPES: Record<string, string> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".json": "application/json",
  ".svg": "image/svg+xml",
  ".png": "image/png",
  ".ico": "image/x-icon",
  ".woff2": "font/woff2",
  ".txt": "text/plain; charset=utf-8",
  ".webmanifest": "application/manifest+json",
};

const PLAIN_STYLE =
  "body { font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem }";

const PLAIN = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>diffcoder</title>
<style>${PLAIN_STYLE}</style>
<h1>diffcoder</h1>
<p>This server speaks OpenAI's protocol at <code>/v1</code>.</p>
<ul>
<li><a href="/v1/models">the model</a></li>
<li><a href="/openapi.json">the API as an OpenAPI document</a></li>
<li><a href="/health">health</a>, <a href="/ready">readiness</a>, <a href="/metrics">metrics</a></li>
</ul>
</html>
`;

/** Nothing from elsewhere or inline but the plain page's style, and no page around ours. */
const POLICY =
  `default-src 'self'; style-src 'self' 'sha256-${createHash("sha256").update(PLAIN_STYLE).digest("base64")}'; ` +
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/** The folder of the built playground. */
export const PLAYGROUND = fileURLToPath(new URL("../../assets/playground", import.meta.url));

/** Serves the playground at /, or a plain page where it is not there. Its few files are held in memory. */
export function pageRoutes(app: FastifyInstance, folder: string = PLAYGROUND): void {
  const files = existsSync(join(folder, "index.html"))
    ? readdirSync(folder, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile() && TYPES[extname(entry.name)] !== undefined)
        .map((entry) => join(entry.parentPath, entry.name))
        .map((path) => ({
          name: path
            .slice(folder.length + 1)
            .split(sep)
            .join("/"),
          content: readFileSync(path),
        }))
    : [{ name: "index.html", content: Buffer.from(PLAIN) }];
  for (const { name, content } of files) {
    const etag = `"${createHash("sha256").update(content).digest("base64url").slice(0, 27)}"`;
    const paths = name === "index.html" ? ["/", "/index.html"] : [`/${encodeURI(name)}`];
    for (const path of paths) {
      app.get(path, { config: { public: true } }, async (request, reply) => {
        reply
          .header("etag", etag)
          .header("cache-control", "no-cache")
          .header("content-security-policy", POLICY)
          .header("x-content-type-options", "nosniff")
          .header("referrer-policy", "no-referrer");
        if (request.headers["if-none-match"] === etag) return reply.code(304).send();
        return reply.type(TYPES[extname(name)]).send(content);
      });
    }
  }
}
