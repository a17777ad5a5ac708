import { Linear } from "../nn/index.js";
import { architectureSpec } from "./architectures/index.js";
import type { Decoder } from "./decoder.js";
import { ModelConfigError } from "./errors.js";

/**
 * The matrices of a decoder's layers that may be quantised or adapted, as its architecture names them, layer by layer:
 * `layers.0.selfAttn.qProj` and so on.
 *
 * @throws ModelError MODEL_CONFIG where the layers have no such matrix
 */
export function layerMatrices(model: Decoder): [path: string, matrix: Linear][] {
  const { architecture } = model.config;
  const { layerMatrices: paths } = architectureSpec(architecture);
  return model.layers.flatMap((layer, i) => {
    const modules = new Map(layer.namedModules());
    return paths.map((path): [string, Linear] => {
      const matrix = modules.get(path);
      if (matrix instanceof Linear) return [`layers.${i}.${path}`, matrix];
      const found = matrix ? `a ${matrix.constructor.name}` : "missing";
      throw new ModelConfigError(`${architecture} names the matrix layers.${i}.${path}, which is ${found}`);
    });
  });
}
