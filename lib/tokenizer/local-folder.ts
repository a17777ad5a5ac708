import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** The name of the package's own tokenizer: 4,096 tokens of code, Seed-Coder's special tokens at the same ids. */
export const CODE_TOKENIZER = "diffcoder/code-4k";

const BUNDLED: Readonly<Record<string, URL>> = {
  [CODE_TOKENIZER]: new URL("../../assets/tokenizer", import.meta.url),
};

/** The folder of a tokenizer: `name` itself, or where the package keeps the tokenizer of that name. A folder wins. */
export function tokenizerFolder(name: string): string {
  return Object.hasOwn(BUNDLED, name) && !existsSync(name) ? fileURLToPath(BUNDLED[name]) : name;
}

/**
 * Why there is nothing at `path`, for an error message. The id of a repository on the Hugging Face hub is a likely
 * mistake: nothing is downloaded here, so the message says how to fetch it.
 */
export function missingFolder(path: string): string {
  if (!/^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/.test(path)) return `${path} does not exist`;
  const folder = path.split("/")[1];
  return (
    `${path} is not a folder on this machine. If it is the id of a repository on the Hugging Face hub: a local folder is ` +
    `needed. Fetch it with 'hf download ${path} --local-dir ${folder}' (pip install huggingface_hub), then give ${folder}`
  );
}
