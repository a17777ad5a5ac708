import * as torch from "../../../lib/torch/index.js";

console.log(String(torch.ones([3]).sum().item()));
