"""One process of the peer of bench/distributed.ts: the model of train_step.py, alone, under DistributedDataParallel or under
FSDP2 (fully_shard), over Gloo. It is told what to do in lines of JSON.

Argument: a folder with config.json and model.safetensors (Hugging Face names).
"""

import json
import os
import sys
import time

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from train_step import Model, block_diffusion_mask, corrupt, loss_of


class Peer:
    def __init__(self, folder):
        self.folder = folder
        self.runs = {}
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        if self.size > 1:
            dist.init_process_group("gloo")

    def setup(self, name, mode, batch, length, block_size, mask_id, bfloat16, lr, reshard=True):
        """A run: `batch` sequences of `length` a process and step. mode: alone, replicated, sharded."""
        torch.manual_seed(int(os.environ.get("RANK", "0")))
        c = json.load(open(f"{self.folder}/config.json"))
        theta = c.get("rope_theta") or c["rope_parameters"]["rope_theta"]
        model = Model(c, theta, length)
        model.load_state_dict(load_file(f"{self.folder}/model.safetensors"))
        if mode == "sharded":
            policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16 if bfloat16 else torch.float32, reduce_dtype=torch.float32
            )
            options = {
                "mesh": init_device_mesh("cpu", (self.size,)),
                "mp_policy": policy,
                "reshard_after_forward": reshard,
            }
            for layer in model.model.layers:
                fully_shard(layer, **options)
            fully_shard(model, **options)
        decayed = [p for p in model.parameters() if p.ndim > 1]
        plain = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)
        forward = DistributedDataParallel(model) if mode == "replicated" else model
        clean = torch.randint(8, c["vocab_size"], (batch, length))
        mask = block_diffusion_mask(length, block_size)
        self.runs[name] = (model, forward, optimizer, clean, mask, block_size, mask_id, bfloat16)
        return {"torch": torch.__version__, "parameters": sum(p.numel() for p in model.parameters())}

    def steps(self, name, count, threads=1):
        model, forward, optimizer, clean, mask, block_size, mask_id, bfloat16 = self.runs[name]
        torch.set_num_threads(threads)
        self.meet()
        start = time.perf_counter()
        for _ in range(count):
            noisy, masked, weights = corrupt(clean, block_size, mask_id)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
                loss = loss_of(forward, mask, noisy, clean, masked, weights)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            value = loss.item()
        self.meet()
        return {"ms": 1000 * (time.perf_counter() - start) / count, "loss": value}

    def meet(self):
        if self.size > 1:
            dist.barrier()


if __name__ == "__main__":
    peer = Peer(sys.argv[1])
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(getattr(peer, command.pop("do"))(**command)), flush=True)
    if peer.size > 1:
        dist.destroy_process_group()
