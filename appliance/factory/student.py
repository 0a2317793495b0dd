"""A small Llama-shaped decoder in torch: its shape, its training with checkpoints, and its greedy answers.

Rotary positions turn neighbouring pairs of numbers (2i, 2i+1), as llama.cpp's `llama` architecture does, so the weights go
into a GGUF as they are. Only this module and the exporters import torch.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from appliance.errors import InvalidRequest

IGNORED = -100
Tell = Callable[[int, int, float], None]


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a decoder; kv_heads divides heads, heads divides hidden."""

    vocabulary: int = 4096
    hidden: int = 320
    layers: int = 6
    heads: int = 5
    kv_heads: int = 5
    ffn: int = 864
    context: int = 256
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train. learning_rate is the peak of a cosine with warm-up."""

    steps: int = 4000
    batch: int = 64
    learning_rate: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.05
    dropout: float = 0.1
    seed: int = 1
    save_every: int = 200


class Block(nn.Module):
    """Attention and feed-forward with pre-normalisation."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        head = shape.hidden // shape.heads
        self.heads, self.kv_heads, self.dropout = shape.heads, shape.kv_heads, dropout
        self.attn_norm = nn.RMSNorm(shape.hidden, eps=shape.norm_eps)
        self.q = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.k = nn.Linear(shape.hidden, head * shape.kv_heads, bias=False)
        self.v = nn.Linear(shape.hidden, head * shape.kv_heads, bias=False)
        self.o = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.ffn_norm = nn.RMSNorm(shape.hidden, eps=shape.norm_eps)
        self.gate = nn.Linear(shape.hidden, shape.ffn, bias=False)
        self.up = nn.Linear(shape.hidden, shape.ffn, bias=False)
        self.down = nn.Linear(shape.ffn, shape.hidden, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """x: [batch, tokens, hidden]; cos, sin: [tokens, head/2]."""
        batch, tokens, _ = x.shape
        y = self.attn_norm(x)
        q = _rotate(self.q(y).view(batch, tokens, self.heads, -1), cos, sin).transpose(1, 2)
        k = _rotate(self.k(y).view(batch, tokens, self.kv_heads, -1), cos, sin).transpose(1, 2)
        v = self.v(y).view(batch, tokens, self.kv_heads, -1).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.heads != self.kv_heads)
        x = x + F.dropout(self.o(y.transpose(1, 2).reshape(batch, tokens, -1)), self.dropout, self.training)
        y = self.ffn_norm(x)
        return x + F.dropout(self.down(F.silu(self.gate(y)) * self.up(y)), self.dropout, self.training)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = cos[:, None, :], sin[:, None, :]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).type_as(x)


class Student(nn.Module):
    """The decoder; its output matrix is its embedding."""

    def __init__(self, shape: Shape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.hidden)
        self.blocks = nn.ModuleList(Block(shape, dropout) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, eps=shape.norm_eps)
        nn.init.normal_(self.embedding.weight, std=0.02)
        for name, weight in self.named_parameters():
            if weight.dim() == 2 and "embedding" not in name:
                scale = math.sqrt(2 * shape.layers) if name.endswith(("o.weight", "down.weight")) else 1.0
                nn.init.normal_(weight, std=0.02 / scale)
        head = shape.hidden // shape.heads
        rates = shape.rope_base ** (-torch.arange(0, head, 2).float() / head)
        angles = torch.outer(torch.arange(shape.context).float(), rates)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def drop(self, share: float) -> None:
        """Train with this dropout from now on."""
        for block in self.blocks:
            block.dropout = share

    def add_tokens(self, rows: torch.Tensor) -> None:
        """Tokens behind the others, which begin with these vectors [tokens, hidden]."""
        old = self.embedding.weight.detach()
        self.embedding = nn.Embedding.from_pretrained(torch.cat([old, rows.to(old)]), freeze=False)
        self.shape = replace(self.shape, vocabulary=len(self.embedding.weight))

    def states(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens [batch, length] -> what the model makes of each of them, [batch, length, hidden]."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]])
        return self.norm(x)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens [batch, length] -> logits [batch, length, vocabulary]."""
        return F.linear(self.states(tokens), self.embedding.weight)

    @torch.no_grad()
    def answer(self, prompts: Sequence[Sequence[int]], end: int, longest: int = 100) -> list[list[int]]:
        """Greedy answers, each up to `end` or `longest` tokens."""
        self.eval()
        found = []
        for prompt in prompts:
            tokens = list(prompt)
            while len(tokens) - len(prompt) < longest and len(tokens) < self.shape.context:
                token = int(self(torch.tensor([tokens], device=self.cos.device))[0, -1].argmax())
                if token == end:
                    break
                tokens.append(token)
            found.append(tokens[len(prompt) :])
        return found


Draw = Callable[[random.Random], tuple[list[int], list[int]]]
"""One example: prompt tokens and answer tokens (its end token included)."""


def train(student: Student, draw: Draw, recipe: Recipe, folder: Path, tell: Tell = lambda step, steps, loss: None) -> float:
    """Train in place; returns the mean loss of the last steps. Resumes from folder/checkpoint.pt when there is one.

    The examples of a step depend on the seed and the step alone, so a run that was killed goes on as if it had not been.
    Raises InvalidRequest when the loss is no number.
    """

    def loss(rng: random.Random) -> torch.Tensor:
        return writing_loss(student, [draw(rng) for _ in range(recipe.batch)])

    return fit(student, loss, recipe, folder / "checkpoint.pt", asdict(student.shape), tell)


def writing_loss(student: Student, examples: list[tuple[list[int], list[int]]]) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens, given their prompts."""
    device = student.cos.device
    inputs, targets = _batch(examples, student.shape.context)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        logits = student(inputs.to(device))
        return F.cross_entropy(logits.float().flatten(0, 1), targets.to(device).flatten(), ignore_index=IGNORED)


def fit(
    module: nn.Module, loss: Callable[[random.Random], torch.Tensor], recipe: Recipe, checkpoint: Path, shape: dict[str, Any], tell: Tell
) -> float:
    """Minimise `loss`, which draws its examples by the generator it is given. See `train`; shape: what a checkpoint must be of."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    optimiser = torch.optim.AdamW(module.parameters(), lr=1.0, betas=(0.9, 0.95), weight_decay=recipe.weight_decay)
    step = _resume(checkpoint, shape, module, optimiser)
    recent = 0.0
    module.train()
    while step < recipe.steps:
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        for group in optimiser.param_groups:
            group["lr"] = _rate(recipe, step)
        found = loss(random.Random(f"{recipe.seed}/{step}"))
        value = found.item()
        if not math.isfinite(value):
            raise InvalidRequest(
                f"The loss became {value} at step {step}.", remedy="Train again with a smaller --learning-rate."
            )
        optimiser.zero_grad(set_to_none=True)
        found.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        step += 1
        recent = value if not recent else 0.98 * recent + 0.02 * value
        tell(step, recipe.steps, recent)
        if step % recipe.save_every == 0 or step == recipe.steps:
            _save(checkpoint, shape, module, optimiser, step)
    return recent


def _rate(recipe: Recipe, step: int) -> float:
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    share = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share)))


def _batch(examples: list[tuple[list[int], list[int]]], context: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets; only answers are learned, padding and prompts are ignored."""
    rows = [(prompt + answer)[: context + 1] for prompt, answer in examples]
    length = max(map(len, rows)) - 1
    inputs = torch.zeros(len(rows), length, dtype=torch.long)
    targets = torch.full((len(rows), length), IGNORED, dtype=torch.long)
    for i, (row, (prompt, _)) in enumerate(zip(rows, examples, strict=True)):
        inputs[i, : len(row) - 1] = torch.tensor(row[:-1])
        targets[i, len(prompt) - 1 : len(row) - 1] = torch.tensor(row[len(prompt) :])
    return inputs, targets


def _save(path: Path, shape: dict[str, Any], module: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
    part = path.with_suffix(".part")
    torch.save({"shape": shape, "weights": module.state_dict(), "optimiser": optimiser.state_dict(), "step": step}, part)
    os.replace(part, path)


def _resume(path: Path, shape: dict[str, Any], module: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    if state["shape"] != shape:
        raise InvalidRequest(f"{path} is of another shape.", remedy="Choose another --out folder, or remove it.")
    module.load_state_dict(state["weights"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])
