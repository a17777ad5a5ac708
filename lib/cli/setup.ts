import { Command } from "commander";

/**
 * `diffcoder setup`, as a line of the help. bin/diffcoder.mjs runs it before anything is compiled, so it never comes to
 * this command itself.
 */
export function setupCommand(): Command {
  return new Command("setup")
    .summary("install or build what is missing: npm packages, libtorch, the addon")
    .description("Installs or builds what is missing. npx diffcoder setup --help shows its options.")
    .helpOption(false);
}
