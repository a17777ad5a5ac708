/** Operators whose kernels end the process on nonsense, under Python too: what they were called with, and what happened. */
export const crashes: Readonly<Record<string, string>> = {
  linalg_eigvals: "a matrix of NaN: MKL's SGEBAL complains and libtorch goes on, segmentation fault",
  range: "a step below 1 for an integer dtype: division by zero",
  embedding_bag: "offsets that are not one-dimensional: segmentation fault",
  lu_unpack: "pivots of another shape than LU's: segmentation fault",
};
