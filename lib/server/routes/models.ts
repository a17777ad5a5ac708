import type { FastifyInstance } from "fastify";
import * as z from "zod";
import { checkModel, type ServerContext } from "../context.js";
import { documented } from "../openapi.js";
import { modelListSchema, modelSchema, versionSchema } from "../protocol/responses.js";

/** GET /v1/models, /v1/models/:id, /version */
export function modelRoutes(app: FastifyInstance, context: ServerContext): void {
  const describe = (name: string) => {
    const { modelNames, created, state } = context;
    const facts = state.engine?.model;
    return {
      id: name,
      object: "model",
      created,
      owned_by: "diffcoder",
      root: modelNames[0],
      parent: null,
      max_model_len: facts?.maxLength ?? null,
      permission: [],
      dllm: facts
        ? {
            block_size: facts.blockSize,
            mask_id: facts.maskId,
            modes: facts.maskId === null ? ["autoregressive"] : ["diffusion", "autoregressive"],
            chat: facts.hasChatTemplate,
            infill: facts.hasFim,
            parameters: facts.parameters,
            vocabulary: facts.vocabSize,
            dtype: facts.dtype,
            weights: facts.quantization ?? "full",
            device: facts.device,
          }
        : null,
    };
  };
  const list = documented("The model", "getTheModel", { answer: modelListSchema });
  app.get("/v1/models", { schema: list }, async () => ({ object: "list", data: context.modelNames.map(describe) }));
  // Names may hold slashes, as those of Hugging Face do.
  const one = {
    ...documented("One model", "getOneModel", { answer: modelSchema }),
    params: z.object({ model: z.string() }),
  };
  app.get<{ Params: { "*": string } }>("/v1/models/*", { schema: one }, async (request) => {
    return describe(checkModel(context, request.params["*"] || "(none)"));
  });
  const version = documented("Version and fingerprint", "getVersionAndFingerprint", { answer: versionSchema });
  app.get("/version", { schema: version }, async () => ({
    version: context.version,
    system_fingerprint: context.state.fingerprint,
  }));
}
