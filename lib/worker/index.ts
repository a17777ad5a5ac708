// Worker threads and child processes: how they are started, and one typed request and reply over them.
export type { Setup, WorkerContext } from "./answer.js";
export { type ClientOptions, WorkerClient } from "./client.js";
export { localLink, processLink, type StartLink, threadLink, WorkerEnded } from "./link.js";
export { type ResultOf, Transfer } from "./messages.js";
export { serve } from "./serve.js";
