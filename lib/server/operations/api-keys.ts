import { createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import { ApiError, ServerError } from "../errors.js";
import { isApiKey } from "../options.js";
import { WatchedFiles } from "./watched-file.js";

/** Of this process, so that names of keys mean nothing outside it. */
const SECRET = randomBytes(32);

export interface ApiKeyOptions {
  keys: readonly string[];
  /** One key a line; lines that begin with "#" are comments. Read again when it changes. */
  file?: string;
  onReload: (problem: Error | undefined) => void;
}

/** The keys that open the server. With neither keys nor a file it is open to everybody. */
export class ApiKeys {
  readonly required: boolean;
  readonly #given: readonly Buffer[];
  readonly #file: WatchedFiles | undefined;
  #fromFile: readonly Buffer[] = [];

  /** @throws ServerError SERVER_FILE for a key file that cannot be read or holds no key */
  constructor({ keys, file, onReload }: ApiKeyOptions) {
    this.required = keys.length > 0 || file !== undefined;
    this.#given = keys.map(digest);
    if (file !== undefined) {
      this.#file = new WatchedFiles([file], ([content]) => this.#take(file, content.toString("utf8")), onReload);
    }
  }

  get count(): number {
    return this.#given.length + this.#fromFile.length;
  }

  /**
   * Lets a request in, or not. The key is taken from `Authorization: Bearer KEY` or `X-Api-Key: KEY`.
   *
   * @returns a name for the key that says nothing about it, undefined where none is needed
   * @throws ApiError invalid_api_key
   */
  check(headers: IncomingHttpHeaders): string | undefined {
    if (!this.required) return undefined;
    const given = /^Bearer +(\S+)\s*$/i.exec(headers.authorization ?? "")?.[1] ?? headers["x-api-key"];
    if (typeof given !== "string" || given === "") {
      throw new ApiError("invalid_api_key", "an API key is needed: send the header Authorization: Bearer KEY");
    }
    const wanted = digest(given);
    // Each key is compared, and digests of one length: the time says nothing about how much of a key was right.
    let matches = 0;
    for (const key of [...this.#given, ...this.#fromFile]) matches += Number(timingSafeEqual(key, wanted));
    if (matches === 0) throw new ApiError("invalid_api_key", "this API key is not known here");
    return createHmac("sha256", SECRET).update(wanted).digest("base64url");
  }

  close(): void {
    this.#file?.close();
  }

  #take(path: string, text: string): void {
    const lines = text.replace(/^\uFEFF/, "").split(/\r\n|\n|\r/);
    const keys: string[] = [];
    for (const [i, line] of lines.entries()) {
      const key = line.trim();
      if (key === "" || key.startsWith("#")) continue;
      if (!isApiKey(key)) {
        const message = `${path}, line ${i + 1}: a key is visible ASCII characters without spaces; comments have lines of their own`;
        throw new ServerError("SERVER_FILE", message);
      }
      keys.push(key);
    }
    if (keys.length === 0) throw new ServerError("SERVER_FILE", `${path} holds no API key`);
    this.#fromFile = keys.map(digest);
  }
}

function digest(key: string): Buffer {
  return createHash("sha256").update(key, "utf8").digest();
}
