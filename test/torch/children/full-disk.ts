// Saves more than the process may write, and prints what happens.
import * as torch from "../../../lib/torch/index.js";

try {
  torch.scope(() => torch.saveSafetensors(process.argv[2], { big: torch.ones([100_000]) }));
  console.log("saved");
} catch (error) {
  console.log((error as torch.TorchError).code, (error as Error).message);
}
