import { CodedError } from "../base/coded-error.js";

/** Codes of {@link DataError}, for programs; the message is for people. */
export type DataErrorCode =
  | "DATA_NOT_FOUND" // a path that does not exist
  | "DATA_EMPTY" // no usable data in the given paths
  | "DATA_FILE" // a file that cannot be read: a pipe, damaged, changed while it was read, or with too long a record
  | "DATA_FORMAT" // an unsupported file format or kind of record
  | "DATA_TOO_SMALL" // less text than one sample
  | "DATA_OPTIONS" // invalid or contradictory options
  | "DATA_STORE" // a token store that is damaged, of another version or cannot be written
  | "DATA_RANGE" // a position or an index outside the data
  | "DATA_SAMPLE" // a dataset returned an invalid sample
  | "DATA_WORKER"; // a prefetching thread ended, or its dataset differs from that of the training thread

/** Every error of lib/data. `code` is stable, `message` names the path or the value that is wrong. */
export class DataError extends CodedError<DataErrorCode> {}
