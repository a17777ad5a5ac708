import { faultOf, type Model, type Request, readModels, type ServerFault } from "./protocol.js";
import { Store } from "./storage.js";

const KEY = "diffcoder-api-key";

/** An answer that is no success; `status` 0: there was no answer. */
export class ApiFailure extends Error {
  readonly status: number;
  readonly fault: ServerFault;
  /** Seconds after which the server wants to be asked again. */
  readonly retryAfter: number | undefined;

  constructor(status: number, fault: ServerFault, retryAfter?: number) {
    super(fault.message);
    this.name = "ApiFailure";
    this.status = status;
    this.fault = fault;
    this.retryAfter = retryAfter;
  }
}

const session = new Store("sessionStorage");

/** The key lives as long as the tab. It is kept nowhere else. */
export const apiKey = {
  get: (): string => session.get(KEY),
  set: (key: string): void => session.set(KEY, key),
};

/** @throws ApiFailure */
export async function fetchModel(): Promise<Model | undefined> {
  const response = await ask("v1/models", {});
  return readModels(await response.json().catch(() => undefined));
}

/**
 * Opens the stream of a run.
 *
 * @throws ApiFailure, or the signal's reason
 */
export async function openStream({ path, body }: Request, signal: AbortSignal): Promise<ReadableStream<Uint8Array>> {
  const headers = { "content-type": "application/json" };
  const response = await ask(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!response.body) throw new ApiFailure(response.status, { message: "The answer is empty.", code: "" });
  return response.body;
}

async function ask(path: string, init: RequestInit): Promise<Response> {
  const headers = new Headers(init.headers);
  if (apiKey.get() !== "") headers.set("authorization", `Bearer ${apiKey.get()}`);
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers });
  } catch (error) {
    init.signal?.throwIfAborted();
    throw new ApiFailure(0, { message: `The server does not answer (${(error as Error).message}).`, code: "" });
  }
  if (response.ok) return response;
  const text = await response.text().catch(() => "");
  let fault: ServerFault | undefined;
  try {
    fault = faultOf(JSON.parse(text));
  } catch {
    // A proxy's own page, perhaps: the status says enough.
  }
  const retryAfter = Number(response.headers.get("retry-after") ?? Number.NaN);
  throw new ApiFailure(
    response.status,
    fault ?? { message: `${response.status} ${response.statusText}`.trim(), code: "" },
    Number.isFinite(retryAfter) ? retryAfter : undefined,
  );
}
