import { mergeConfig } from "vitest/config";
import base from "./vitest.config.js";

// The suite of `npm run test:gpu`. One worker: the tests share one device and its memory.
const config = mergeConfig(base, { test: { maxWorkers: 1, testTimeout: 300_000 } });
config.test.include = ["test/gpu/**/*.test.ts"];
config.test.exclude = ["node_modules/**"];
export default config;
