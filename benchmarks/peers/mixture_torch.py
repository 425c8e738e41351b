"""The census model of `benchmarks/mixture_step.py` in PyTorch: expert by expert, and with all experts batched.

Both have the settings that were fastest here: one table for all features as ours, Adam fused, ids and numbers resident.
"""

import torch
from torch import nn


class ByModules(nn.Module):
    """Embeddings of 8, experts 64-32, a gate and a tower of 32 per task, a module each: the common way.

    From ids (B, 32) and numbers (B, 7) to logits (B, K).
    """

    def __init__(self, table_rows: int, ids: int = 32, numeric: int = 7, experts: int = 8, tasks: int = 2) -> None:
        super().__init__()
        width = ids * 8 + numeric
        self.embedding = nn.Embedding(table_rows, 8)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU()) for _ in range(experts)
        )
        self.gates = nn.ModuleList(nn.Linear(width, experts, bias=False) for _ in range(tasks))
        self.towers = nn.ModuleList(nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1)) for _ in range(tasks))

    def forward(self, ids: torch.Tensor, numeric: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.embedding(ids).flatten(1), numeric], dim=1)
        outputs = torch.stack([expert(x) for expert in self.experts], dim=1)
        logits = []
        for gate, tower in zip(self.gates, self.towers, strict=True):
            weights = torch.softmax(gate(x), dim=1)
            logits.append(tower(torch.bmm(weights.unsqueeze(1), outputs).squeeze(1)))
        return torch.cat(logits, dim=1)


class Batched(nn.Module):
    """The same with the first layers of all experts, the gates, and the towers in one product each."""

    def __init__(self, table_rows: int, ids: int = 32, numeric: int = 7, experts: int = 8, tasks: int = 2) -> None:
        super().__init__()
        width = ids * 8 + numeric
        self.shape, self.gate_shape = (-1, experts, 64), (-1, tasks, experts)
        self.embedding = nn.Embedding(table_rows, 8)
        self.first = nn.Linear(width, experts * 64)
        self.gates = nn.Linear(width, tasks * experts, bias=False)
        self.second, self.second_bias = _grouped(experts, 64, 32)
        self.tower, self.tower_bias = _grouped(tasks, 32, 32)
        self.logit, self.logit_bias = _grouped(tasks, 32, 1)

    def forward(self, ids: torch.Tensor, numeric: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.embedding(ids).flatten(1), numeric], dim=1)
        hidden = torch.relu(self.first(x)).view(self.shape).transpose(0, 1)
        outputs = torch.relu(torch.baddbmm(self.second_bias, hidden, self.second)).transpose(0, 1)
        mixed = torch.bmm(torch.softmax(self.gates(x).view(self.gate_shape), dim=2), outputs).transpose(0, 1)
        tower = torch.relu(torch.baddbmm(self.tower_bias, mixed, self.tower))
        return torch.baddbmm(self.logit_bias, tower, self.logit).squeeze(2).t()


def _grouped(groups: int, width: int, units: int) -> tuple[nn.Parameter, nn.Parameter]:
    kernel = nn.Parameter(torch.empty(groups, width, units).uniform_(-1, 1) * width**-0.5)
    return kernel, nn.Parameter(torch.zeros(groups, 1, units))


def trainer(variant: str, data: dict, table_rows: int, batch: int):
    """A function that trains one epoch and returns the last loss, and the model's size.

    Args:
        variant: "modules" or "batched", then "eager" or "compile".
        data: `ids`, `numeric` and `labels`, arrays of whole batches.
        table_rows: Rows of the table.
        batch: Rows a step.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    style, _, mode = variant.partition(" ")
    sizes = table_rows, data["ids"].shape[1], data["numeric"].shape[1]
    model: nn.Module = ByModules(*sizes) if style == "modules" else Batched(*sizes)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    cross_entropy = nn.BCEWithLogitsLoss()
    ids = torch.from_numpy(data["ids"]).long()  # a few percent faster than int32
    numeric, labels = torch.from_numpy(data["numeric"]), torch.from_numpy(data["labels"])
    batches = list(zip(ids.split(batch), numeric.split(batch), labels.split(batch), strict=True))

    def loss_of(ids: torch.Tensor, numeric: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return cross_entropy(model(ids, numeric), labels)

    compiled = torch.compile(loss_of) if mode == "compile" else loss_of

    def epoch() -> float:
        for arrays in batches:
            optimizer.zero_grad(set_to_none=True)
            loss = compiled(*arrays)
            loss.backward()
            optimizer.step()
        return loss.item()

    return epoch, sum(weight.numel() for weight in model.parameters())
