import { CodedError } from "../base/coded-error.js";

/** Codes of {@link TokenizerError}, for programs; the message is for people. */
export type TokenizerErrorCode =
  | "TOKENIZER_FILE_MISSING" // no tokenizer.json in the folder
  | "TOKENIZER_FILE_INVALID" // invalid JSON, or JSON with an unexpected structure
  | "TOKENIZER_UNSUPPORTED" // a component of tokenizer.json that is not supported exactly
  | "TOKENIZER_TEXT" // a text with a character without a token, and there is no unknown token
  | "TOKENIZER_TOKEN_MISSING" // a required special token is not in the vocabulary
  | "TOKENIZER_ID" // an id that is not a token id
  | "CHAT_TEMPLATE_MISSING" // a conversation cannot be rendered without a chat template
  | "CHAT_TEMPLATE_INVALID" // a template that does not parse
  | "CHAT_TEMPLATE_UNSUPPORTED" // a template that uses an unsupported feature of Jinja
  | "CHAT_TEMPLATE_FAILED"; // a template that rejects the messages, fails, or exceeds a limit

/** Every error of the tokenizer and the chat template. `code` is stable, `message` names the file or the value. */
export class TokenizerError extends CodedError<TokenizerErrorCode> {}
