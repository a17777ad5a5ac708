import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

setFlagsFromString("--expose-gc");

/** Collects all garbage now; callbacks of what was collected run as tasks of their own, later. */
export const collectGarbage = runInNewContext("gc") as () => void;
