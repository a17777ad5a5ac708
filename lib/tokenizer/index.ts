export * from "./chat-template.js";
export { parseJson as parseChatJson } from "./jinja/convert.js";
export type { SpecialTokenIds, SpecialTokenOverrides, SpecialTokenRole } from "./special-tokens.js";
export * from "./token-stream.js";
export * from "./tokenizer.js";
export * from "./tokenizer-error.js";
export { CODE_TOKENIZER, copyTokenizerFiles, TOKENIZER_FILES } from "./tokenizer-files.js";
