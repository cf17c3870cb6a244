"""Where a graph can be cut: pieces that read one value and give one, for a pass that makes one call of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import fx

from pyprod.fuse._graph import arguments, is_call, only_user
from pyprod.fuse._trace import Untraceable

aten = torch.ops.aten
Made = TypeVar("Made")


@dataclass(frozen=True)
class Piece:
    """Calls in order that read `input` and each other; of them the last alone is read elsewhere."""

    input: fx.Node
    nodes: tuple[fx.Node, ...]


def layer_name(node: fx.Node) -> str:
    """The layer's name in the model, where a node is a convolution or a linear layer; else ""."""
    if not is_call(node, aten.conv2d.default, aten.linear.default):
        return ""
    weight = arguments(node)["weight"]
    return str(weight.target).removesuffix(".weight") if weight.op == "get_attr" else ""


def pieces(graph: fx.Graph, named: Set[str], make: Callable[[Piece], Made]) -> list[tuple[Piece, Made]]:
    """Pieces that hold every layer of `named` and no other, with what `make` makes of them; the longest that it takes.

    Args:
        make: raises Untraceable for a piece that it can't take.

    Raises:
        Untraceable: it takes a named layer neither with others nor alone.
    """
    found: list[tuple[Piece, Made]] = []
    if not named:
        return found
    segments = list(_segments(graph))
    while segments:
        length, made = _longest([_join(segments[:end]) for end in range(1, len(segments) + 1)], named, make)
        if made is None:
            found += _single(segments[0].nodes, named, make)
            length = 1
        else:
            found.append(made)
        del segments[:length]
    return found


def _single(nodes: Sequence[fx.Node], named: Set[str], make: Callable[[Piece], Made]) -> Iterator[tuple[Piece, Made]]:
    """Each layer with as much of what follows it alone as can be."""
    done: set[fx.Node] = set()
    for node in nodes:
        if node in done or layer_name(node) not in named:
            continue
        path = [node]
        while (user := only_user(path[-1])) is not None and user in nodes:
            path.append(user)
        source = arguments(node)["input"]
        _, made = _longest([Piece(source, tuple(path[:end])) for end in range(1, len(path) + 1)], named, make)
        if made is None:
            make(Piece(source, (node,)))  # says why
            raise AssertionError(f"{node} was refused, and then was not")
        done.update(made[0].nodes)
        yield made


def _longest(
    candidates: Sequence[Piece], named: Set[str], make: Callable[[Piece], Made]
) -> tuple[int, tuple[Piece, Made] | None]:
    """The last candidate that can be made, each being a part of the next, and its place from 1."""
    for length in range(len(candidates), 0, -1):
        piece = candidates[length - 1]
        layers = {name for node in piece.nodes if (name := layer_name(node))}
        if layers and layers <= named:
            try:
                return length, (piece, make(piece))
            except Untraceable:
                continue
    return 0, None


def _join(segments: Sequence[Piece]) -> Piece:
    return Piece(segments[0].input, tuple(node for segment in segments for node in segment.nodes))


def _segments(graph: fx.Graph) -> Iterator[Piece]:
    """The graph cut wherever one value is all that later calls read. A part before the first such place has none
    that it could be said to read: its first input stands there."""
    order = {node: i for i, node in enumerate(node for node in graph.nodes if node.op != "get_attr")}
    last_read = {node: max((order[user] for user in node.users), default=-1) for node in order}
    begin = next(iter(order))
    alive: set[fx.Node] = set()
    nodes: list[fx.Node] = []
    for node, time in order.items():
        if node.op == "output":
            break
        alive = {known for known in alive if last_read[known] > time} | {node}
        if node.op == "call_function":
            nodes.append(node)
        if len(alive) == 1:
            if nodes:
                yield Piece(begin, tuple(nodes))
            begin, nodes = node, []
