// A process that has the addon in a thread only. It loads no torch itself, which rank.ts would.
import { setTimeout as sleep } from "node:timers/promises";
import { endOfThread } from "./thread.js";

const { RANK, MASTER_PORT } = process.env;
const result = await endOfThread({ rank: Number(RANK), port: Number(MASTER_PORT), serves: true });
await sleep(2500); // what the thread left behind ends meanwhile, and must find its code where it was
await new Promise((done) => process.send?.({ result }, done));
process.disconnect?.();
