import { CodedError } from "../base/coded-error.js";

/** What can go wrong with data, for programs; the message is for people. */
export type DataErrorCode =
  | "DATA_NOT_FOUND" // a path that does not exist
  | "DATA_EMPTY" // nothing usable where data was looked for
  | "DATA_FILE" // a file that cannot be read: a pipe, damaged, changed meanwhile, a record too long
  | "DATA_FORMAT" // a format or a form of records that is not read
  | "DATA_TOO_SMALL" // less text than one sample
  | "DATA_OPTIONS" // options that are wrong or contradict each other
  | "DATA_STORE" // a token store that is torn, of another version or cannot be written
  | "DATA_RANGE" // a position or an index outside the data
  | "DATA_SAMPLE" // a dataset gave what is not a sample
  | "DATA_WORKER"; // a thread that reads ahead ended, or has another dataset than the thread that trains

/** Every error of lib/data. `code` is stable, `message` names the path or the value that is wrong. */
export class DataError extends CodedError<DataErrorCode> {}
