import type { Server } from "node:https";
import { createSecureContext } from "node:tls";
import { ServerError } from "../errors.js";
import { WatchedFiles } from "./watched-file.js";

export interface TlsFiles {
  key: string;
  cert: string;
}

/** Options of the HTTPS server, with TLS 1.2 as the minimum. */
export interface TlsContext {
  key: Buffer;
  cert: Buffer;
  minVersion: "TLSv1.2";
}

/** A key and a certificate that may be renewed while the server runs: new connections get the new ones. */
export class ReloadedTls {
  readonly context: TlsContext;
  readonly #files: WatchedFiles;
  #server: Server | undefined;

  /** @throws ServerError SERVER_FILE for files that cannot be read or do not belong together */
  constructor({ key, cert }: TlsFiles, onReload: (problem: Error | undefined) => void) {
    let context: TlsContext | undefined;
    const take = ([keyText, certText]: Buffer[]) => {
      const next: TlsContext = { key: keyText, cert: certText, minVersion: "TLSv1.2" };
      try {
        createSecureContext(next);
      } catch (cause) {
        const message = `${key} and ${cert} are not a valid key and its certificate: ${(cause as Error).message}`;
        throw new ServerError("SERVER_FILE", message, { cause });
      }
      context = next;
      this.#server?.setSecureContext(next);
    };
    this.#files = new WatchedFiles([key, cert], take, onReload);
    this.context = context as unknown as TlsContext;
  }

  attach(server: Server): void {
    this.#server = server;
  }

  close(): void {
    this.#files.close();
  }
}
