import * as z from "zod";
import {
  bytesSchema,
  deviceSchema,
  fileSchema,
  folderSchema,
  portSchema,
  secondsSchema,
} from "../base/option-fields.js";
import { commitFields, engineOptionsSchema, generateOptionsSchema } from "../engine/options.js";
import { evaluationSchema } from "../eval/options.js";
import { serverOptionsSchema } from "../server/options.js";
import { runSettingsSchema } from "../train/run-options.js";

// The options of the commands. Flags, help texts, defaults and checks are generated from these schemas and from those
// of the layers below (flags.ts). Nothing here may load the addon: help must work before it is built.

const seedSchema = z.number().int().min(0);

/** Engine options of `serve`: a server needs limits, and its main thread must stay responsive. */
export const serveEngineSchema = engineOptionsSchema.safeExtend({
  worker: z
    .enum(["thread", "process"])
    .default("process")
    .describe("where the model runs; the server survives the crash of a process"),
  maxQueue: engineOptionsSchema.shape.maxQueue.default(256),
  queueTimeout: engineOptionsSchema.shape.queueTimeout.default(60),
  requestTimeout: engineOptionsSchema.shape.requestTimeout.default(600),
});
export const serveServerSchema = serverOptionsSchema;

export interface ServeOptions {
  engine: z.output<typeof serveEngineSchema>;
  server: z.output<typeof serveServerSchema>;
}

/** Options of `train` that a curriculum file can set, too; the file's values are the defaults. */
export const trainRunSchema = runSettingsSchema.extend({
  outputDir: folderSchema
    .optional()
    .describe("folder of the checkpoints, metrics.jsonl and report.html; default: runs/NAME"),
});
export const trainOptionsSchema = z.strictObject({
  model: folderSchema.optional().describe("checkpoint to start from, instead of the file's model"),
  cacheDir: folderSchema.optional().describe("folder that keeps tokens; default: DIFFCODER_CACHE, or .cache/data"),
  tensorboard: z
    .boolean()
    .default(false)
    .describe("write TensorBoard event files to the folder tensorboard of the run"),
  tensorboardDir: folderSchema.optional().describe("write TensorBoard event files to this folder"),
  wandb: z
    .string()
    .min(1)
    .meta({ placeholder: "project" })
    .optional()
    .describe("send the run to Weights & Biases, with the key in WANDB_API_KEY; requires @wandb/sdk"),
  quiet: z
    .boolean()
    .default(false)
    .describe("show no progress; warnings, errors and what to do next are still printed"),
});
export type TrainOptions = z.output<typeof trainOptionsSchema> & { run: Partial<z.input<typeof trainRunSchema>> };

export const quickstartOptionsSchema = z.strictObject({
  minutes: z.number().min(0.1).max(100_000).default(7.5).describe("time for everything, in minutes"),
  steps: z
    .string()
    .regex(/^[1-9]\d*,[1-9]\d*,[1-9]\d*$/, 'expected three positive integers, such as "800,300,200"')
    .meta({ placeholder: "ar,cpt,anneal" })
    .transform((text) => {
      const [compress, cpt, anneal] = text.split(",").map(Number);
      return { compress, cpt, anneal };
    })
    .optional()
    .describe("steps of the three stages instead of a time, which repeats a run exactly"),
  data: z
    .array(z.string().min(1).meta({ placeholder: "path" }))
    .optional()
    .describe("folders or files of code; default: node_modules and Python's standard library"),
  outputDir: folderSchema
    .default("runs/quickstart")
    .describe("folder of the run; an existing run is moved to FOLDER.previous"),
  seed: seedSchema.default(0).describe("random seed of the weights, the data order and the corruption"),
  device: deviceSchema.default("cpu").describe('"cpu", "cuda" or "cuda:1"'),
});
export type QuickstartOptions = z.output<typeof quickstartOptionsSchema>;

export const launchOptionsSchema = z.strictObject({
  nproc: z
    .string()
    .regex(/^(auto|gpu|cpu|[1-9]\d{0,5})$/, 'expected a number from 1, "auto", "gpu" or "cpu"')
    .meta({ placeholder: "n" })
    .optional()
    .describe(
      'processes on this machine: "auto" (one for each GPU, else for each core), "gpu", "cpu" or a number; default: 1',
    ),
  nnodes: z.number().int().min(1).optional().describe("number of machines, each with its own launcher; default: 1"),
  nodeRank: z.number().int().min(0).optional().describe("rank of this machine, from 0"),
  masterAddr: z.string().meta({ placeholder: "host" }).optional().describe("address of the machine with rank 0"),
  masterPort: portSchema
    .min(1)
    .optional()
    .describe("port on that machine; default: a free one, or 29500 with several machines"),
  maxRestarts: z
    .number()
    .int()
    .min(0)
    .default(0)
    .describe("how often all processes are restarted after one has failed"),
  logDir: folderSchema.optional().describe("also write the output of each process to RANK.log in this folder"),
  grace: secondsSchema
    .max(86_400)
    .default(15)
    .describe("time between SIGTERM and SIGKILL for a process that has to end"),
  expect: fileSchema
    .optional()
    .describe("file or folder that must exist at the end: if it does not, the exit code is 75 even after success"),
  prefix: z.boolean().default(true).describe("print [RANK] in front of the output of the processes"),
});
export type LaunchOptions = z.output<typeof launchOptionsSchema>;

export const watchOptionsSchema = z.strictObject({
  interval: secondsSchema
    .min(0.05)
    .max(3600)
    .optional()
    .describe("time between two updates; default: 1 on a terminal, 5 elsewhere"),
  once: z.boolean().optional().describe("print the dashboard once and exit"),
});
export type WatchOptions = z.output<typeof watchOptionsSchema>;

export const reportOptionsSchema = z.strictObject({
  out: fileSchema.default("report.html").describe("file of the page"),
  title: z.string().optional().describe("heading of the page; default: the run's name, or the number of runs"),
});
export type ReportOptions = z.output<typeof reportOptionsSchema>;

export const doctorOptionsSchema = z.strictObject({
  json: z.boolean().default(false).describe("print the report as JSON"),
});

const engine = engineOptionsSchema.shape;
const request = generateOptionsSchema.shape;

export const generateCommandSchema = z.strictObject({
  file: fileSchema.optional().describe("read the prompt from a file"),
  chat: z.boolean().default(false).describe("wrap the prompt as a user's message in the model's chat template"),
  maxTokens: request.maxTokens,
  blockSize: engine.blockSize.describe("tokens that are denoised together; use the value from training"),
  ...commitFields,
  shift: engine.shift,
  temperature: request.temperature,
  topP: request.topP,
  topK: request.topK,
  seed: seedSchema.default(0).describe("random seed of the sampling"),
  autoregressive: z.boolean().default(false).describe("decode token by token with the same weights"),
  device: engine.device,
  dtype: z
    .enum(["auto", "float32", "bfloat16", "float16"])
    .default("auto")
    .describe("data type of the weights; auto: as saved"),
  pause: z
    .number()
    .int()
    .min(0)
    .meta({ unit: "milliseconds" })
    .default(0)
    .describe("time between two frames of the canvas"),
  canvas: z.boolean().default(true).describe("draw the canvas on a terminal"),
  json: z.boolean().default(false).describe("print one JSON object with the text and the counts"),
});
export type GenerateCommandOptions = z.output<typeof generateCommandSchema>;

/** Who answers; exactly one of the first four. */
export const evalModelSchema = z.strictObject({
  model: folderSchema.optional().describe("checkpoint to evaluate"),
  server: z
    .string()
    .min(1)
    .meta({ placeholder: "url" })
    .optional()
    .describe("server to evaluate, by OpenAI's protocol, such as http://127.0.0.1:8000"),
  canonical: z
    .boolean()
    .default(false)
    .describe("judge the authors' solutions: a score below 100 % means that this machine or the data are at fault"),
  rescore: folderSchema.optional().describe("judge the answers in this folder again, without a model"),
  serverModel: z.string().min(1).optional().describe("name of the server's model; default: the first it lists"),
  apiKey: z.string().min(1).optional().describe("API key of the server"),
  serverConcurrency: z.number().int().min(1).max(4096).default(16).describe("requests to the server at a time"),
  sendStop: z
    .boolean()
    .default(true)
    .describe("send the stop strings to the server: some take four at most; answers are cut here in any case"),
  device: engine.device,
  dtype: engine.dtype,
  maxNumSeqs: engine.maxNumSeqs,
});

/** How answers are asked for and judged. */
export const evalRunSchema = z.strictObject({
  ...evaluationSchema.shape,
  outputDir: folderSchema
    .optional()
    .describe("folder of the results; a run that is there is continued; default: runs/eval/BENCHMARK-PROMPT-MODEL"),
  json: z.boolean().default(false).describe("print the summary as JSON"),
});
export type EvalCommandOptions = {
  model: z.output<typeof evalModelSchema>;
  run: z.output<typeof evalRunSchema>;
};

export const checkpointListSchema = z.strictObject({
  json: z.boolean().default(false).describe("print one JSON array"),
});
export const checkpointVerifySchema = z.strictObject({
  all: z.boolean().default(false).describe("verify all checkpoints of the run"),
});
export const checkpointExportSchema = z.strictObject({
  out: folderSchema.describe("folder of the model; a model that is there is replaced"),
  dtype: z.enum(["float32", "bfloat16", "float16"]).optional().describe("data type of the weights; default: as saved"),
  maxShard: bytesSchema.default(5e9).describe("maximum size of a file of weights"),
});
export type CheckpointListOptions = z.output<typeof checkpointListSchema>;
export type CheckpointVerifyOptions = z.output<typeof checkpointVerifySchema>;
export type CheckpointExportOptions = z.output<typeof checkpointExportSchema>;
