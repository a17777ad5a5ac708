import { STATUS_CODES } from "node:http";
import type { Socket } from "node:net";
import type { FastifyError, FastifyInstance } from "fastify";
import { retryAfterOf, type ServerContext } from "./context.js";
import { toApiError } from "./engine-error.js";
import { ApiError } from "./errors.js";
import { noteFailure } from "./operations/access-log.js";
import type { Connections } from "./operations/connections.js";
import { ClientGone } from "./operations/request-scope.js";

/** Answers what routes throw, and what no route answers. */
export function answerErrors(app: FastifyInstance, context: ServerContext): void {
  const retryAfter = () => retryAfterOf(context);
  app.setErrorHandler((error: FastifyError, request, reply) => {
    if (error instanceof ClientGone) {
      noteFailure(request, error);
      reply.hijack();
      reply.raw.destroy();
      return reply;
    }
    const apiError = fromFastify(error, retryAfter);
    noteFailure(request, apiError);
    if (apiError.retryAfter !== undefined) reply.header("retry-after", String(apiError.retryAfter));
    if (apiError.status === 401) reply.header("www-authenticate", "Bearer");
    return reply.code(apiError.status).send(apiError.toBody());
  });
  app.setNotFoundHandler((request, reply) => {
    const path = request.url.split("?")[0];
    const methods = (["GET", "POST"] as const).filter((method) => app.hasRoute({ method, url: path }));
    if (methods.length > 0) {
      reply.header("allow", methods.join(", "));
      throw new ApiError("method_not_allowed", `${path} answers to ${methods.join(" and ")} only`);
    }
    throw new ApiError("not_found", `there is nothing at ${path.slice(0, 256)}; /openapi.json lists the routes`);
  });
}

/** Answers, on the socket, bytes that are not valid HTTP and requests that arrive too slowly: they never become requests. */
export function refuseBrokenHttp(error: NodeJS.ErrnoException, socket: Socket, connections: Connections): void {
  if (error.code === "ECONNRESET") {
    socket.destroy();
    return;
  }
  const apiError =
    error.code === "HPE_HEADER_OVERFLOW"
      ? new ApiError("headers_too_large", "the headers are too large")
      : error.code === "ERR_HTTP_REQUEST_TIMEOUT"
        ? new ApiError("request_too_slow", "the request did not arrive in time")
        : new ApiError("bad_request", "this is not HTTP");
  const body = JSON.stringify(apiError.toBody());
  connections.refuse(
    socket,
    `HTTP/1.1 ${apiError.status} ${STATUS_CODES[apiError.status]}\r\nContent-Type: application/json\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  );
}

function fromFastify(error: FastifyError, retryAfter: () => number): ApiError {
  if (typeof error.statusCode === "number" && error.statusCode >= 400 && error.statusCode < 500) {
    return new ApiError("bad_request", error.message, { cause: error });
  }
  return toApiError(error, retryAfter);
}
