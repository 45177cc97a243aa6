"""Recurrent networks, loops over time and control flow inside the graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.zoo.specimen import (
    CLASSES,
    FIXED_SEQUENCES,
    SEQUENCES,
    TOKENS,
    VECTORS,
    Output,
    specimen,
)


class LastStep(nn.Module):
    """A recurrent layer and a head that reads its last output."""

    def __init__(self, recurrent: nn.RNNBase, width: int) -> None:
        super().__init__()
        self.recurrent, self.head = recurrent, nn.Linear(width, CLASSES)

    def forward(self, steps: Tensor) -> Output:
        outputs, _ = self.recurrent(steps)
        return self.head(outputs[:, -1])


@specimen(SEQUENCES)
def gru() -> nn.Module:
    return LastStep(nn.GRU(8, 12, batch_first=True), 12)


@specimen(SEQUENCES)
def lstm() -> nn.Module:
    return LastStep(nn.LSTM(8, 12, batch_first=True), 12)


@specimen(FIXED_SEQUENCES)
def stacked_lstm() -> nn.Module:
    return LastStep(nn.LSTM(8, 8, 2, batch_first=True, bidirectional=True, dropout=0.1), 16)


@specimen(FIXED_SEQUENCES)
def rnn() -> nn.Module:
    return LastStep(nn.RNN(8, 12, batch_first=True, nonlinearity="relu"), 12)


@specimen(TOKENS)
class TextGru(nn.Module):
    """An embedding, a GRU without biases, and a layer that reads its final state."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.recurrent = nn.GRU(8, 8, bias=False, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, ids: Tensor) -> Output:
        _, state = self.recurrent(self.embedding(ids))
        return self.head(state[-1])


@specimen(FIXED_SEQUENCES)
class UnrolledCell(nn.Module):
    """A loop over time in Python: the exporter unrolls it, and the weights are read each time."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(8, 8), nn.Linear(8, CLASSES)

    def forward(self, steps: Tensor) -> Output:
        state = torch.zeros_like(steps[:, 0])
        for number in range(steps.shape[1]):
            state = self.cell(steps[:, number], state)
        return self.head(state)


@specimen(FIXED_SEQUENCES)
class UnrolledLinear(nn.Module):
    """A loop over time that calls two Linear layers six times each."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.state = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, steps: Tensor) -> Output:
        state = torch.zeros_like(steps[:, 0])
        for step in steps.unbind(1):
            state = torch.tanh(self.inner(step) + self.state(state))
        return self.head(state)


class ScriptedLoop(nn.Module):
    """A loop over time, compiled by torch.jit.script."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.state = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, steps: Tensor) -> Tensor:
        state = torch.zeros_like(steps[:, 0])
        for number in range(steps.shape[1]):
            state = torch.tanh(self.inner(steps[:, number]) + self.state(state))
        return state


@specimen(SEQUENCES)
def scripted_loop() -> nn.Module:
    return nn.Sequential(torch.jit.script(ScriptedLoop()), nn.Linear(8, CLASSES))


@specimen(VECTORS, jumps=True)
class Condition(nn.Module):
    """`torch.cond`: an If in the graph, with layers in its branches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, features: Tensor) -> Output:
        def first(hidden: Tensor) -> Output:
            return self.first(hidden).relu()

        def second(hidden: Tensor) -> Output:
            return self.second(hidden).tanh()

        hidden = self.stem(features)
        # Always true, so that answers do not depend on the other samples; the graph cannot know.
        return self.head(torch.cond(hidden.square().sum() >= 0, first, second, (hidden,)))


@specimen(VECTORS)
class WhileLoop(nn.Module):
    """`while_loop`: a Loop in the graph, with a layer in its body."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, features: Tensor) -> Output:
        from torch._higher_order_ops.while_loop import while_loop

        def is_open(number: Tensor, hidden: Tensor) -> Tensor:
            return number < 3

        def step(number: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
            return number + 1, self.body(hidden).tanh()

        start = torch.tensor(0, dtype=torch.int64)
        _, hidden = while_loop(is_open, step, (start, self.stem(features)))  # type: ignore[no-untyped-call]
        return self.head(hidden)


@specimen(FIXED_SEQUENCES)
class ScanOverTime(nn.Module):
    """`scan`: a Scan in the graph, with layers in its body."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.state = nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, steps: Tensor) -> Output:
        from torch._higher_order_ops.scan import scan

        def step(state: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
            state = torch.tanh(self.inner(features) + self.state(state))
            return state, state.clone()

        start = torch.zeros(len(steps), 8)
        state, _ = scan(step, start, steps.transpose(0, 1))
        return self.head(state)


@specimen(VECTORS)
class BranchOnBatch(nn.Module):
    """Takes another path for a single sample, with the same answer."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 16), nn.Linear(16, CLASSES)

    def forward(self, features: Tensor) -> Output:
        hidden = self.body(features).relu()
        if len(features) == 1:
            return self.head(hidden.squeeze(0)).unsqueeze(0)
        return self.head(hidden)


@specimen(VECTORS)
class BranchOnValues(nn.Module):
    """Branches on the values of the input, which no exporter can record."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 16), nn.Linear(16, CLASSES)

    def forward(self, features: Tensor) -> Output:
        hidden = self.body(features)
        return self.head(hidden.relu() if features.sum() > -1e9 else hidden)
