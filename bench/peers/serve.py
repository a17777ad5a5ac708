"""Block-diffusion decoding in PyTorch as the published sampler does it, and `generate` of Hugging Face transformers: the
peers of bench/serve.ts, which talks to them in lines of JSON.

The procedure is the published one (batch 1, DynamicCache, block-causal mask, a separate pass that stores each block), on
the model classes of transformers. Where it leaves a choice the faster one is taken: no logits where none are needed.
"""

import json
import sys
import time

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, LlamaForCausalLM


def shares(masked, steps):
    """Tokens of each pass: equal, the remainder first."""
    steps = min(steps, masked)
    return [masked // steps + (1 if step < masked % steps else 0) for step in range(steps)]


class BlockSampler:
    def __init__(self, model, mask_id, block):
        self.model, self.mask_id, self.block = model, mask_id, block
        self.device, self.dtype = model.device, model.dtype
        self.forwards = self.denoising = 0

    def visible(self, start, end):
        """Additive mask [1, 1, end - start, end]: a token sees its own block and those before."""
        q = torch.arange(start, end, device=self.device) // self.block
        k = torch.arange(end, device=self.device) // self.block
        hidden = q[:, None] < k[None, :]
        mask = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device)
        return mask.masked_fill_(hidden, float("-inf"))[None, None]

    def run(self, x, start, end, cache, head):
        self.forwards += 1
        model = self.model if head else self.model.model
        return model(x[:, start:end], attention_mask=self.visible(start, end), past_key_values=cache, use_cache=True)

    @torch.inference_mode()
    def generate(self, prompt, length, steps=None, threshold=None, until=float("inf")):
        """`steps` passes a block, or every token above `threshold`; stops after a block when the time `until` is over."""
        total = len(prompt) + length
        x = torch.full((1, total), self.mask_id, device=self.device)
        x[0, : len(prompt)] = torch.tensor(prompt, device=self.device)
        cache = DynamicCache()
        done = len(prompt) // self.block * self.block
        if done > 0:
            self.run(x, 0, done, cache, head=False)
        while done < total and time.perf_counter() < until:
            start, end = done, min(done + self.block, total)
            self.denoise(x, start, end, cache, steps, threshold)
            self.run(x, start, end, cache, head=False)  # stores the block
            done = end
        return x[0, len(prompt) : max(done, len(prompt))].tolist()

    def denoise(self, x, start, end, cache, steps, threshold):
        masked = x[0, start:end] == self.mask_id
        left = int(masked.sum())
        counts = shares(left, steps) if threshold is None else [None] * left
        for count in counts:
            logits = self.run(x, start, end, cache, head=True).logits[0]
            cache.crop(start - end)
            self.denoising += 1
            logits[:, self.mask_id] = float("-inf")
            confidence, chosen = torch.softmax(logits.double(), dim=-1).max(dim=-1)
            confidence = torch.where(masked, confidence, -1.0)
            if threshold is None:
                commit = torch.zeros_like(masked)
                commit[confidence.topk(count).indices] = True
            else:
                commit = confidence > threshold
                commit[confidence.argmax()] = True
            x[0, start:end] = torch.where(commit, chosen, x[0, start:end])
            masked &= ~commit
            if not masked.any():
                break


class Peer:
    def load(self, folder, dtype, device, threads, block_size, mask_id):
        torch.set_num_threads(threads)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        kind = AutoModelForCausalLM if config.model_type in ("llama", "qwen2") else LlamaForCausalLM
        self.model = kind.from_pretrained(folder, dtype=getattr(torch, dtype)).to(device).eval()
        # Nothing ends a text before its length; sampling settings of the checkpoint are not ours to use.
        self.model.generation_config = transformers.GenerationConfig(pad_token_id=config.pad_token_id or 0)
        self.block, self.mask_id, self.device = block_size, mask_id, device
        return {"parameters": self.model.num_parameters()}

    def clock(self):
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    def blocks(self, prompt, tokens, steps=None, threshold=None):
        sampler = BlockSampler(self.model, self.mask_id, self.block)
        began = self.clock()
        ids = sampler.generate(prompt, tokens, steps, threshold)
        seconds = self.clock() - began
        return {"ids": ids, "seconds": seconds, "forwards": sampler.forwards, "denoising": sampler.denoising}

    def serve(self, requests, seconds, steps=None, threshold=None):
        """One request after the other, until the time is over."""
        sampler = BlockSampler(self.model, self.mask_id, self.block)
        made = 0
        began = self.clock()
        for request in requests:
            made += len(
                sampler.generate(request["prompt"], request["tokens"], steps, threshold, until=began + seconds)
            )
            if self.clock() - began >= seconds:
                break
        took = self.clock() - began
        return {"tokens": made, "seconds": took, "forwards": sampler.forwards, "denoising": sampler.denoising}

    @torch.inference_mode()
    def autoregressive(self, prompt, tokens):
        """What `generate` does by itself: greedy, with its cache."""
        ids = torch.tensor([prompt], device=self.device)
        began = self.clock()
        out = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, use_cache=True
        )
        seconds = self.clock() - began
        made = out[0, len(prompt) :].tolist()
        return {"ids": made, "seconds": seconds, "forwards": len(made), "denoising": 0}


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    peer = Peer()
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(getattr(peer, command.pop("do"))(**command)), flush=True)
