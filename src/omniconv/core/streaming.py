# SPDX-License-Identifier: Apache-2.0
"""Causal convolutions chunk by chunk: the state between chunks, and the window of inputs that a chunk completes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .numbers import integer
from .planned import planned
from .problem import ConvProblem
from .register import Plan


@dataclass(frozen=True)
class StreamState:
    """What a causal 1-D layer remembers between two chunks. It is never changed: each step returns a new one.

    Attributes:
        history: the last d(k-1) inputs, shape (n, c, d(k-1)); zeros before the first chunk.
        skip: inputs still to come before the one that completes the next output (0 unless the layer strides).
    """

    history: Tensor
    skip: int = 0

    def reorder(self, index: Tensor) -> StreamState:
        """The state with its batch entries taken from ``index``, as beam search asks."""
        return replace(self, history=self.history.index_select(0, index))


def check_streamable(problem: ConvProblem) -> None:
    """Raise ``ValueError`` unless ``problem`` is causal in one dimension and pads with zeros."""
    span = problem.span[0]
    causal = problem.dim == 1 and problem.padding[0] in ("causal", (span - 1, 0))
    if not causal:
        raise ValueError(
            f"`padding` (={problem.padding}) must be 'causal' on a 1-D layer to stream it; an output may not wait for "
            "inputs that come after it."
        )
    if problem.padding_mode != "zeros":
        raise ValueError(f"`padding_mode` (={problem.padding_mode!r}) must be 'zeros' to stream; use 'zeros'.")


def first_state(problem: ConvProblem, batch: int, like: Tensor) -> StreamState:
    """The state before the first chunk: a history of zeros with the dtype and device of ``like``."""
    check_streamable(problem)
    return StreamState(like.new_zeros(batch, problem.in_channels, problem.span[0] - 1))


def check_chunk(chunk: Tensor, state: StreamState, channels: int, length: int) -> None:
    """Raise unless ``chunk`` continues ``state``, and ``state`` is that of a layer that remembers ``length`` inputs.

    Raises:
        TypeError: not a tensor, or not a state.
        ValueError: a chunk whose batch or channels differ from the state's, or the state of another layer.
    """
    if not isinstance(chunk, Tensor):
        raise TypeError(f"`chunk` (={type(chunk).__name__}) must be a torch.Tensor.")
    if not isinstance(state, StreamState):
        raise TypeError(f"`state` (={type(state).__name__}) must be a StreamState; use initial_state().")
    held = tuple(state.history.shape)
    if held[1:] != (channels, length):
        raise ValueError(
            f"`state` (of shape {held}) must hold {channels} channels and {length} inputs, those of this layer; use "
            "its initial_state()."
        )
    if chunk.dim() != 3 or tuple(chunk.shape[:2]) != held[:2]:
        raise ValueError(
            f"`chunk` shape (={tuple(chunk.shape)}) must be {held[:2]} and a length, as its state is; start a new "
            "state for another batch."
        )


def take(problem: ConvProblem, state: StreamState, chunk: Tensor) -> tuple[Tensor, slice, StreamState]:
    """Join ``chunk`` to the history.

    Returns:
        The window to convolve without padding (empty along time where no output is complete), the positions of
        the chunk that complete an output, and the state for the next chunk.

    Raises:
        TypeError, ValueError: as :func:`check_chunk`.
    """
    span, stride = problem.span[0], problem.stride[0]
    check_chunk(chunk, state, problem.in_channels, span - 1)
    length = chunk.shape[2]
    count = max(0, -(-(length - state.skip) // stride))
    joined = torch.cat([state.history, chunk], dim=2)
    window = joined[:, :, state.skip : state.skip + (count - 1) * stride + span] if count else joined[:, :, :0]
    done = slice(state.skip, state.skip + (count - 1) * stride + 1, stride) if count else slice(0, 0)
    rest = StreamState(joined[:, :, joined.shape[2] - (span - 1) :], state.skip + count * stride - length)
    return window, done, rest


@planned
def _unpadded_plan(problem: ConvProblem) -> ConvProblem:
    """The problem of a window, which has its history instead of padding."""
    return replace(problem, padding=((0, 0),))


class Streaming:
    """Mixed into a 1-D layer: ``initial_state`` and ``step``; the layer says how to convolve a window."""

    problem: ConvProblem

    def initial_state(self, batch: int = 1) -> StreamState:
        """Return the state before the first chunk of ``batch`` sequences.

        Raises:
            ValueError: the layer is not causal, or does not pad with zeros.
        """
        like: Tensor = next(self.parameters())  # type: ignore[attr-defined]
        return first_state(self.problem, integer("batch", batch, 0), like)

    def step(self, chunk: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Return the outputs that ``chunk`` (n, c, length) completes, and the state for the next chunk.

        Any split of a sequence into chunks, empty ones included, gives the outputs of one call on the whole.

        Raises:
            TypeError: not a tensor, or not a state.
            ValueError: the layer is not causal, the chunk's batch or channels differ from the state's, or the state is
                that of another layer.
        """
        check_streamable(self.problem)
        window, done, rest = take(self.problem, state, chunk)
        if window.shape[2] == 0:
            return chunk.new_empty(chunk.shape[0], self.problem.out_channels, 0), rest
        return self._convolve_window(window, chunk, done), rest

    @property
    def unpadded(self) -> Plan:
        """The plan of the same layer without padding, which a window runs through."""
        return _unpadded_plan(self.problem)

    def _convolve_window(self, window: Tensor, chunk: Tensor, done: slice) -> Tensor:
        """Outputs of ``window``, which the positions ``done`` of ``chunk`` complete."""
        raise NotImplementedError(f"{type(self).__name__} must say how it convolves a window")
