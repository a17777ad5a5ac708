// Brings the TypeScript loader along, which threads do not inherit.
import { register } from "tsx/esm/api";

register();
await import("./exiting-thread.ts");
