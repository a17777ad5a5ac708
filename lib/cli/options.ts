import { Option } from "commander";

/** `--device`: where the model runs. */
export function deviceOption(): Option {
  return new Option("--device <device>", '"cpu", "cuda" or "cuda:1"').default("cpu");
}
