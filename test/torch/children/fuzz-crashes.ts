/**
 * Operators that end the process, or loop for ever, when called with nonsense: libtorch's own kernels do so under Python too. Each
 * with what it did.
 */
export const crashes: Readonly<Record<string, string>> = {
  linalg_eigvals: "?",
  range: "?",
  lu_unpack: "?",
  max_pool1d: "?",
  replication_pad2d: "?",
  embedding_bag: "?",
  adaptive_max_pool3d: "?",
};
