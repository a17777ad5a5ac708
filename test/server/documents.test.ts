import { Validator } from "@seriousme/openapi-schema-validator";
import { Ajv2020 } from "ajv/dist/2020.js";
import fastify from "fastify";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parseAllDocuments } from "yaml";
import * as z from "zod";
import { serveServerSchema } from "../../lib/cli/command-options.js";
import { serveCommand } from "../../lib/cli/commands.js";
import { parseFlags } from "../../lib/cli/flags.js";
import type { Engine } from "../../lib/engine/index.js";
import { API_CODES } from "../../lib/server/index.js";
import { describeRoutes, documented } from "../../lib/server/openapi.js";
import { parseRequest } from "../../lib/server/protocol/parse.js";
import { tokenizeRequestSchema } from "../../lib/server/protocol/requests.js";
import { textSchema } from "../../lib/server/protocol/responses.js";
import { read, tablesOf } from "../docs/markdown.js";
import { type Json, json, type Started, smallEngine, start } from "./support.js";

let engine: Engine;
let served: Started;
beforeAll(async () => {
  engine = await smallEngine();
  served = await start(engine);
});
afterAll(async () => {
  await served.server.close({ drain: 0 });
  await engine.close();
});

describe("/openapi.json", () => {
  it("is a valid document", async () => {
    const document = await json(fetch(`${served.url}/openapi.json`));
    const result = await new Validator().validate(document);
    expect(result.errors).toBeUndefined();
    expect(result.valid).toBe(true);
  });

  it("describes what is answered", async () => {
    const document = await json(fetch(`${served.url}/openapi.json`));
    const ajv = new Ajv2020({ strict: false, validateFormats: false });
    ajv.addSchema(document, "api");
    const check = (name: string, value: unknown) => {
      const validate = ajv.getSchema(`api#/components/schemas/${name}`);
      if (!validate) throw new Error(`no schema ${name}`);
      expect(validate(value), JSON.stringify(validate.errors)).toBe(true);
    };
    const completion = { prompt: "x", max_tokens: 4, logprobs: 2, echo: true, dllm: { stream_steps: true } };
    check("CompletionRequest", completion);
    check("Completion", await json(served.post("/v1/completions", completion)));
    const messages = [{ role: "user", content: "hi" }];
    const chat = { messages, max_tokens: 4, logprobs: true, top_logprobs: 2, return_token_ids: true };
    check("ChatCompletionRequest", chat);
    check("ChatCompletion", await json(served.post("/v1/chat/completions", chat)));
    check("ModelList", await json(fetch(`${served.url}/v1/models`)));
    check("Tokens", await json(served.post("/tokenize", { prompt: "x" })));
    check("Text", await json(served.post("/detokenize", { tokens: [7] })));
    check("Health", await json(fetch(`${served.url}/health`)));
    check("Version", await json(fetch(`${served.url}/version`)));
    check("Error", await json(served.post("/v1/completions", {})));
    const validate = ajv.getSchema("api#/components/schemas/CompletionRequest");
    expect(validate?.({ prompt: 1 })).toBe(false);
  });
});

describe("a field of a request that is one line of its schema", () => {
  const schema = tokenizeRequestSchema.extend({ scratch: z.int().min(1).max(9).nullish().describe("a scratch field") });

  it("is checked, with its path", () => {
    expect(parseRequest(schema, { prompt: "x", scratch: 3 }, { strict: true }).request.scratch).toBe(3);
    const refused = expect.objectContaining({ code: "invalid_value", param: "scratch" });
    expect(() => parseRequest(schema, { prompt: "x", scratch: 10 }, { strict: true })).toThrow(refused);
  });

  it("is in the document of the route", async () => {
    const app = fastify();
    describeRoutes(app, "0");
    app.register((scope, _options, done) => {
      const about = documented("Scratch", "createScratch", { body: schema, answer: textSchema });
      scope.post("/scratch", { schema: about }, async () => ({ prompt: "" }));
      done();
    });
    await app.ready();
    const { post } = (app.swagger() as Json).paths["/scratch"];
    const { properties } = post.requestBody.content["application/json"].schema;
    expect(properties.scratch).toMatchObject({
      description: "a scratch field",
      anyOf: [{ maximum: 9 }, { type: "null" }],
    });
    await app.close();
  });
});

describe("/metrics", () => {
  /** Values by name and labels; a line that is none is an error. */
  function parse(text: string): Map<string, number> {
    const values = new Map<string, number>();
    for (const line of text.split("\n")) {
      if (line === "" || line.startsWith("# ")) continue;
      const match = /^([a-z_:][\w:]*(?:\{[^}]*\})?) ([-+\w.]+)$/.exec(line);
      if (!match) throw new Error(`no metric: ${line}`);
      values.set(match[1].replace(/,?model_name="tiny"/, "").replace("{}", ""), Number(match[2]));
    }
    return values;
  }
  const scrape = async () => parse(await (await fetch(`${served.url}/metrics`)).text());
  const value = (values: Map<string, number>, name: string) => values.get(`diffcoder:${name}`) ?? Number.NaN;

  it("count what was done", async () => {
    const before = await scrape();
    const body = { prompt: "def f(", max_tokens: 40, n: 2, dllm: { threshold: 0 } };
    const whole = await json(served.post("/v1/completions", body));
    await (await served.post("/v1/completions", { ...body, n: 1, stream: true })).text();
    const after = await scrape();
    const grown = (name: string) => value(after, name) - value(before, name);
    expect(grown("generation_tokens_total")).toBe(120);
    expect(grown("prompt_tokens_total")).toBeGreaterThan(0);
    expect(grown('request_success_total{finished_reason="length"}')).toBe(3);
    expect(grown("committed_tokens_total")).toBe(120);
    // Every pass of a block commits all of it at threshold 0.
    expect(grown("denoising_steps_total")).toBe(grown("blocks_total"));
    expect(whole.dllm.tokens_per_forward).toBeGreaterThan(3);
    for (const name of ["time_to_first_token", "e2e_request_latency", "request_queue_time", "time_to_first_block"]) {
      expect(grown(`${name}_seconds_count`)).toBe(3);
      expect(grown(`${name}_seconds_sum`)).toBeGreaterThanOrEqual(0);
    }
    expect(grown("inter_token_latency_seconds_count")).toBeGreaterThan(20);
    expect(grown("block_latency_seconds_count")).toBeGreaterThan(20);
    expect(grown("tokens_per_forward_sum")).toBeGreaterThan(9);
    expect(grown('http_responses_total{route="/v1/completions",method="POST",status="200"}')).toBe(2);
    expect(value(after, "num_requests_running")).toBe(0);
    expect(value(after, "kv_cache_usage_perc")).toBe(0);
    expect(value(after, "engine_up")).toBe(1);
  });

  it("have vLLM's names, and are what the dashboard asks for", async () => {
    const text = await (await fetch(`${served.url}/metrics`)).text();
    const names = new Set([...text.matchAll(/^# TYPE (\S+) /gm)].map(([, name]) => name));
    for (const name of [
      ...["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prompt_tokens_total"],
      ...["generation_tokens_total", "prefix_cache_queries_total", "prefix_cache_hits_total", "request_success_total"],
      ...["time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds"],
      ...["request_queue_time_seconds", "request_time_per_output_token_seconds", "num_preemptions_total"],
    ]) {
      expect(names).toContain(`diffcoder:${name}`);
    }
    const dashboard = JSON.parse(read("examples/deploy/grafana.json"));
    const queries: string[] = dashboard.panels.flatMap((panel: Json) =>
      (panel.targets ?? []).map(({ expr }: Json) => expr),
    );
    expect(queries.length).toBeGreaterThan(10);
    const asked = queries.flatMap((query) => [...query.matchAll(/diffcoder:\w+/g)].map(([name]) => name));
    for (const name of asked) expect(names).toContain(name.replace(/_(bucket|sum|count)$/, ""));
  });
});

describe("examples/deploy", () => {
  /** The command's own reading of arguments: throws for what it does not know. */
  const parse = (args: string[]) => {
    const command = serveCommand()
      .exitOverride()
      .configureOutput({ writeErr: () => {} })
      .action(() => {});
    return parseFlags(serveServerSchema, command.parse(args, { from: "user" }).opts());
  };

  it("gives a pod more time to end than the server takes", () => {
    const [deployment, service, budget] = parseAllDocuments(read("examples/deploy/kubernetes.yaml")).map(
      (document): Json => document.toJS(),
    );
    expect([deployment.kind, service.kind, budget.kind]).toEqual(["Deployment", "Service", "PodDisruptionBudget"]);
    const { spec } = deployment.spec.template;
    const [container] = spec.containers;
    const options = parse(container.args);
    const [program, seconds] = container.lifecycle.preStop.exec.command;
    expect(program).toBe("sleep");
    expect(spec.terminationGracePeriodSeconds).toBeGreaterThan(Number(seconds) + options.shutdownTimeout);
    expect(options.apiKeyFile).toMatch(/^\/keys\//);
    expect(container.readinessProbe.httpGet.path).toBe("/ready");
    expect(container.livenessProbe.httpGet.path).toBe("/health");
    const { labels } = deployment.spec.template.metadata;
    for (const selector of [
      deployment.spec.selector.matchLabels,
      service.spec.selector,
      budget.spec.selector.matchLabels,
    ]) {
      expect(labels).toMatchObject(selector);
    }
    const volumes = spec.volumes.map(({ name }: Json) => name).sort();
    expect(container.volumeMounts.map(({ name }: Json) => name).sort()).toEqual(volumes);
    expect(deployment.spec.replicas).toBeGreaterThan(1);
  });

  it("starts the container as the command is called, and not as root", () => {
    const file = read("examples/deploy/Dockerfile");
    const command = JSON.parse(/^CMD (\[.*\])$/m.exec(file)?.[1] ?? "[]");
    expect(parse(command).host).toBe("0.0.0.0");
    expect(JSON.parse(/^ENTRYPOINT (\[.*\])$/m.exec(file)?.[1] ?? "[]").slice(-3)).toEqual([
      "node",
      "bin/diffcoder.mjs",
      "serve",
    ]);
    expect(file).toMatch(/^USER \d+$/m);
    expect(file).toMatch(/^HEALTHCHECK /m);
    expect(file.match(/^FROM /gm)).toHaveLength(2);
  });
});

describe("docs/serving.md", () => {
  it("has every error code, with its status and type", () => {
    const table = tablesOf("docs/serving.md").find(({ mark }) => mark === "error codes");
    const written = Object.fromEntries(
      (table?.rows ?? []).map(([code, status, type]) => [
        code.replaceAll("`", ""),
        [Number(status), type.replaceAll("`", "")],
      ]),
    );
    expect(written).toEqual(API_CODES);
  });
});
