// Starts mismatch.ts, each rank with orders of its own and from the project's folder that it names.
import { pathToFileURL } from "node:url";
import type { MismatchOrder } from "./mismatch.js";

const { ranks, ports } = JSON.parse(process.argv[2]) as {
  ranks: { root: string; orders: MismatchOrder[] }[];
  ports: number[];
};
const { root, orders } = ranks[Number(process.env.RANK)];
const url = pathToFileURL(`${root}/test/distributed/children/mismatch.ts`).href;
const { main } = (await import(url)) as typeof import("./mismatch.js");
await main(orders, ports);
