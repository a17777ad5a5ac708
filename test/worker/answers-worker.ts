// The worker of client.test.ts.
import { workerData } from "node:worker_threads";
import { serve } from "../../lib/worker/index.js";
import { type AnswerHandlers, answers } from "./answers.js";

serve<AnswerHandlers, number>((context) => {
  if (workerData === "unusable") throw Object.assign(new TypeError("no such data"), { code: "NO_DATA" });
  return answers(context);
});
