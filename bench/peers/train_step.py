"""The block-diffusion training step as one writes it in eager PyTorch: a dense [2L, 2L] boolean mask, full logits of the
noisy half, torch.optim.AdamW. The peer of bench/train-step.ts, which talks to it in lines of JSON.

Arguments: a folder with config.json, model.safetensors (Hugging Face names) and batch.safetensors.
"""

import json
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * y.to(x.dtype)


def rotate(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        size, self.heads, self.kv_heads = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
        self.head_dim = c.get("head_dim") or size // self.heads
        self.q_proj = nn.Linear(size, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(size, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(size, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, size, bias=False)

    def forward(self, x, cos, sin, mask):
        b, s, _ = x.shape
        q = self.q_proj(x).view(b, s, self.heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(b, s, self.kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(b, s, self.kv_heads, self.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        groups = self.heads // self.kv_heads  # repeated: with enable_gqa the CPU has no fused kernel
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(y.transpose(1, 2).reshape(b, s, -1))


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        size, inner = c["hidden_size"], c["intermediate_size"]
        self.gate_proj = nn.Linear(size, inner, bias=False)
        self.up_proj = nn.Linear(size, inner, bias=False)
        self.down_proj = nn.Linear(inner, size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.mlp = MLP(c)

    def forward(self, x, cos, sin, mask):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Backbone(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.norm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])


class Model(nn.Module):
    def __init__(self, c, theta, length):
        super().__init__()
        self.model = Backbone(c)
        self.lm_head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)
        if c.get("tie_word_embeddings"):
            self.lm_head.weight = self.model.embed_tokens.weight
        head_dim = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
        frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        angles = torch.outer(torch.arange(length).repeat(2).double(), frequencies)
        angles = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, noisy, clean, mask):
        length = noisy.shape[1]
        x = self.model.embed_tokens(torch.cat((noisy, clean), dim=1))
        for layer in self.model.layers:
            x = layer(x, self.cos, self.sin, mask)
        return self.lm_head(self.model.norm(x)[:, :length])


def block_diffusion_mask(length, block_size):
    """Noisy queries see their own noisy block and the clean blocks before; clean ones the clean blocks up to theirs."""
    block = torch.arange(length) // block_size
    noisy, clean = torch.arange(2 * length) < length, torch.arange(2 * length) >= length
    q, k = block.repeat(2)[:, None], block.repeat(2)[None, :]
    own = noisy[:, None] & noisy[None, :] & (q == k)
    before = noisy[:, None] & clean[None, :] & (k < q)
    causal = clean[:, None] & clean[None, :] & (k <= q)
    return own | before | causal


def corrupt(clean, block_size, mask_id):
    """Linear schedule with the 1/B clip and one forced token; t for each block."""
    b, length = clean.shape
    rate = torch.rand(b, length // block_size, 1).clamp(min=1 / block_size)
    draw = torch.rand(b, length // block_size, block_size)
    masked = draw < rate
    empty = ~masked.any(-1, keepdim=True)
    forced = F.one_hot(draw.argmin(-1), block_size).bool()
    masked = (masked | (empty & forced)).view(b, length)
    weights = (1 / rate).expand(-1, -1, block_size).reshape(b, length)
    return torch.where(masked, mask_id, clean), masked, weights


def loss_of(model, mask, noisy, clean, masked, weights):
    logits = model(noisy, clean, mask)
    ce = F.cross_entropy(logits[masked].float(), clean[masked], reduction="none")
    return (ce * weights[masked]).sum() / clean.numel()


class Peer:
    def __init__(self, folder):
        self.folder = folder
        self.config = json.load(open(f"{folder}/config.json"))
        self.batch = load_file(f"{folder}/batch.safetensors")
        self.length = self.batch["clean"].shape[1]

    def setup(self, threads, block_size, mask_id, bfloat16, lr, optimizer, compile=False):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        c = self.config
        theta = c.get("rope_theta") or c["rope_parameters"]["rope_theta"]
        self.model = Model(c, theta, self.length)
        self.model.load_state_dict(load_file(f"{self.folder}/model.safetensors"), strict=not c.get("tie_word_embeddings"))
        self.mask = block_diffusion_mask(self.length, block_size)
        self.block_size, self.mask_id, self.bfloat16 = block_size, mask_id, bfloat16
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
        options = {"fused": True} if optimizer == "fused" else {}
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), **options)
        self.forward = torch.compile(self.model) if compile else self.model
        return {"torch": torch.__version__, "threads": torch.get_num_threads()}

    def loss(self, bfloat16):
        """Of the batch as ours corrupted it."""
        self.model.zero_grad()
        b = self.batch
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            loss = loss_of(self.model, self.mask, b["noisy"].long(), b["clean"].long(), b["masked"].bool(), b["weights"])
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1e9)
        self.model.zero_grad()
        return {"loss": loss.item(), "grad_norm": norm.item()}

    def steps(self, count):
        clean = self.batch["clean"].long()
        start = time.perf_counter()
        for _ in range(count):
            noisy, masked, weights = corrupt(clean, self.block_size, self.mask_id)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bfloat16):
                loss = loss_of(self.forward, self.mask, noisy, clean, masked, weights)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            value = loss.item()
        return {"ms": 1000 * (time.perf_counter() - start) / count, "loss": value}


if __name__ == "__main__":
    peer = Peer(sys.argv[1])
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(getattr(peer, command.pop("do"))(**command)), flush=True)
