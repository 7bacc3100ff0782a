# SPDX-License-Identifier: Apache-2.0
"""A causal dynamic convolution chunk by chunk, with the kernels of each chunk predicted from it or from its query."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from omniconv.core.numbers import integer
from omniconv.core.planned import planned
from omniconv.core.problem import ConvProblem
from omniconv.core.streaming import StreamState, check_chunk, check_streamable, first_state, take

if TYPE_CHECKING:
    from .layer import _DynamicConv as _Layer
else:
    _Layer = object


@dataclass(frozen=True)
class DynamicState(StreamState):
    """What a causal dynamic layer remembers between two chunks.

    Attributes:
        history, skip: as of every causal layer; with ``in_proj`` the history holds projected inputs.
        seen: inputs so far, counted up to d(k-1): the rest of the history is padding, without a share if renormalised.
    """

    seen: int = 0


@planned
def _window_plan(problem: ConvProblem, missing: int) -> ConvProblem:
    """The problem of a window whose first ``missing`` positions are padding."""
    return replace(problem, padding=((missing, 0),))


class DynamicStreaming(_Layer):
    """Mixed into the 1-D layer: ``initial_state`` and ``step``."""

    def initial_state(self, batch: int = 1) -> DynamicState:
        """Return the state before the first chunk of ``batch`` sequences.

        Raises:
            ValueError: the layer is not causal, does not pad with zeros, or predicts from what is not known yet.
        """
        self._check_streams()
        like = next(self.parameters())
        return DynamicState(first_state(self.problem, integer("batch", batch, 0), like).history)

    def step(self, chunk: Tensor, state: DynamicState, query: Tensor | None = None) -> tuple[Tensor, DynamicState]:
        """Return the outputs that ``chunk`` (n, c, length) completes, and the state for the next chunk.

        Any split of a sequence into chunks, empty ones included, gives the outputs of one call on the whole. A layer
        with a query takes the positions of it that belong to these outputs.

        Raises:
            TypeError: a chunk or query that is no tensor, or a state that :meth:`initial_state` did not begin.
            ValueError: as :meth:`initial_state`; a chunk or a query that does not fit the state.
        """
        self._check_streams()
        check_chunk(chunk, state, self.in_channels, self.problem.span[0] - 1)
        if not isinstance(state, DynamicState):
            raise TypeError(f"`state` (={type(state).__name__}) must be a DynamicState; use initial_state().")
        self._check_kind(query)
        values = chunk if self.in_proj is None or chunk.shape[-1] == 0 else self.in_proj(chunk)
        window, done, rest = take(self.problem, state, values)
        most = self.problem.span[0] - 1
        after = DynamicState(rest.history, rest.skip, min(state.seen + chunk.shape[2], most))
        if window.shape[2] == 0:
            return chunk.new_empty(*chunk.shape[:2], 0), after
        count = len(range(chunk.shape[2])[done])
        kernels = self._kernels(chunk[:, :, done] if query is None else query, query is not None, (count,))
        missing = max(0, most - state.seen - state.skip) if self.renorm_padding else 0
        plan = _window_plan(self.plan.problem, missing)
        return self._convolved(plan, window[:, :, missing:], kernels), after

    def _check_streams(self) -> None:
        check_streamable(self.problem)
        if self.context != "position":
            raise ValueError(
                f"`context` (={self.context!r}) must be 'position' to stream: the mean over a sequence is known only "
                "at its end; use 'position'."
            )
        if not self.predicts_linearly:
            raise ValueError(
                f"`predictor` (={type(self.predictor).__name__}) may look beyond a chunk, so the layer cannot stream; "
                "use None."
            )
