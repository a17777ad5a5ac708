/**
 * A number where PyTorch takes a Scalar. JavaScript has one number type: an integral value is an int Scalar (as `2` in
 * Python), any other a float one. A bigint is an int Scalar beyond 2^53.
 */
export type Scalar = number | boolean | bigint;

export type Layout = "strided" | "sparse_coo" | "sparse_csr";

export type MemoryFormat = "contiguous_format" | "preserve_format" | "channels_last" | "channels_last_3d";
