export * from "./chat-template.js";
export { parseJson as parseChatJson } from "./jinja/convert.js";
export { CODE_TOKENIZER } from "./local-folder.js";
export type { SpecialTokenIds, SpecialTokenOverrides, SpecialTokenRole } from "./special-tokens.js";
export * from "./token-stream.js";
export * from "./tokenizer.js";
export * from "./tokenizer-error.js";
export { copyTokenizerFiles, TOKENIZER_FILES } from "./tokenizer-files.js";
