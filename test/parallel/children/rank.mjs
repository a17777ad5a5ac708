// Node's worker threads do not inherit the TypeScript loader of --import tsx: this one brings it along.
import { register } from "tsx/esm/api";

register();
await import("./rank.ts");
