import { CodedError } from "../base/coded-error.js";

/** What can go wrong with a tokenizer, for programs; the message is for people. */
export type TokenizerErrorCode =
  | "TOKENIZER_FILE_MISSING" // no tokenizer.json where one was looked for
  | "TOKENIZER_FILE_INVALID" // not JSON, or JSON of another kind
  | "TOKENIZER_UNSUPPORTED" // a part of tokenizer.json that is not known to give the ids of Rust's tokenizers
  | "TOKENIZER_TEXT" // a text with a character that has no token, where there is no unknown token
  | "TOKENIZER_TOKEN_MISSING" // a special token that is needed is not in the vocabulary
  | "TOKENIZER_ID" // an id that is not a token id
  | "CHAT_TEMPLATE_MISSING" // a conversation without a template to write it with
  | "CHAT_TEMPLATE_INVALID" // a template that does not parse
  | "CHAT_TEMPLATE_UNSUPPORTED" // a template that uses a part of Jinja that is left out
  | "CHAT_TEMPLATE_FAILED"; // a template that refused or cannot take these messages, or exceeds a limit

/** Every error of the tokenizer and the chat template. `code` is stable, `message` names the file or the value. */
export class TokenizerError extends CodedError<TokenizerErrorCode> {}
