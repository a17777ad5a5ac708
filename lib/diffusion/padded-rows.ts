/**
 * How many rows of the last layer and the head to compute for `count` wanted tokens: that, rounded up. The number is
 * another one in each step, and libraries of matrix products compile and keep a kernel for each shape they meet.
 */
export function paddedRows(count: number): number {
  return count <= 128 ? 2 ** Math.ceil(Math.log2(Math.max(1, count))) : Math.ceil(count / 128) * 128;
}
