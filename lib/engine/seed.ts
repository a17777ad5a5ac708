import { Philox } from "../torch/philox.js";

const STREAM_SEED = 0x73656564; // "seed"

/**
 * The seed that a choice draws with: `seed + index`, modulo 2^64. Draws are keyed by 53 bits, as many as a double holds.
 * Seeds in [0, 2^53) are their own key; those beyond, and negative ones, are hashed to one, so that seeds which differ in
 * any bit of the 64 draw differently.
 *
 * @param seed a signed integer of 64 bits
 */
export function drawSeed(seed: number | bigint, index: number): number {
  const exact = BigInt.asIntN(64, BigInt(seed) + BigInt(index));
  if (exact >= 0n && exact <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(exact);
  const random = new Philox(exact, STREAM_SEED);
  return (random.uint32() >>> 5) * 2 ** 26 + (random.uint32() >>> 6);
}
