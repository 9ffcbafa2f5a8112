"""Facts in training side by side: their experts, one optimiser step for all, and the check that a fact is finished.

No fact sees another: each has its own A and B, its own optimiser state and step count, its own shortlist. The loss is a
sum, so that training many together equals training each alone, up to the rounding of sums of other shapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mome_store.modeling.memory_linear import DeltaSource
from mome_store.runtime.apply import ExpertTables, RoutedRows
from mome_store.store import ExpertSchema
from mome_store.store.record import Weights, encode_record
from mome_store.tuning.constants import IGNORED, Batch, FactConstants, Prefix, collate
from mome_store.tuning.settings import TuningSettings
from mome_store.tuning.upper_layers import UpperLayers

_EPSILON = 1e-8  # Adam's
_CHECK_MARGIN = 0.8


@dataclass(eq=False)
class Trainee:
    """A fact in training: its experts are blocks of `schema.rank` rows of A and B.

    a: module -> float32 [experts * rank, d_in]; b: module -> B transposed, float32 [experts * rank, d_out].
    first, second: Adam's running moments of a and b. steps: since the last expert was added. total_steps: in all.
    shortlist: the tokens that compete with the answer's. worst_loss: of the least likely answer token, among them.
    check_below: the fact is checked when `worst_loss` is below this.
    """

    constants: FactConstants
    a: dict[str, torch.Tensor]
    b: dict[str, torch.Tensor]
    first: dict[str, tuple[torch.Tensor, torch.Tensor]]
    second: dict[str, tuple[torch.Tensor, torch.Tensor]]
    shortlist: torch.Tensor
    check_below: float
    experts: int = 0
    steps: int = 0
    total_steps: int = 0
    worst_loss: float = math.inf

    @classmethod
    def begin(cls, constants: FactConstants, schema: ExpertSchema, settings: TuningSettings) -> Trainee:
        device = constants.hidden.device
        a = {name: torch.empty(0, d_in, device=device) for name, (d_in, _) in schema.modules.items()}
        b = {name: torch.empty(0, d_out, device=device) for name, (_, d_out) in schema.modules.items()}
        # A margin for what rounding to the record's dtype and the tokens off the shortlist cost.
        check_below = -_CHECK_MARGIN * math.log(settings.stop_probability)
        trainee = cls(constants, a, b, {}, {}, constants.shortlist, check_below)
        trainee.add_expert(schema.rank)
        return trainee

    def add_expert(self, rank: int) -> None:
        """One more expert, which adds nothing yet: its A is the next main directions, its B is zero.

        The optimiser starts anew.
        """
        for name, a in self.a.items():
            rows = slice(self.experts * rank, (self.experts + 1) * rank)
            self.a[name] = torch.cat([a, self.constants.directions[name][rows]])
            self.b[name] = torch.nn.functional.pad(self.b[name], (0, 0, 0, rank))
            zeros = (torch.zeros_like(self.a[name]), torch.zeros_like(self.b[name]))
            self.first[name] = zeros
            self.second[name] = (zeros[0].clone(), zeros[1].clone())
        self.experts += 1
        self.steps = 0

    def learn_from(self, verdict: Verdict) -> None:
        """After a failed check: its rivals go on the shortlist, and the next check waits until the loss is lower."""
        self.shortlist = torch.cat([self.shortlist, verdict.rivals]).unique()
        self.check_below = _CHECK_MARGIN * self.worst_loss

    def weights(self, rank: int) -> list[Weights]:
        """The experts as the store takes them: module -> (A [r, d_in], B [d_out, r]), float32."""
        return [
            {
                name: (
                    self.a[name][i * rank : (i + 1) * rank].cpu().numpy(),
                    self.b[name][i * rank : (i + 1) * rank].cpu().numpy().T,
                )
                for name in self.a
            }
            for i in range(self.experts)
        ]


@dataclass(frozen=True)
class Verdict:
    """What the rounded records of a fact make the model say.

    exact: every answer token and the end token is the likeliest of the whole vocabulary, in every training wording.
    passed: and has the probability asked for. losses: float32 [positions], negative log-likelihood of the answer's
    tokens, in nats. rivals: int64, tokens that were too likely at its positions.
    """

    passed: bool
    exact: bool
    losses: torch.Tensor
    rivals: torch.Tensor

    @property
    def nll(self) -> float:
        """The mean loss."""
        return float(self.losses.mean())


class TrainingBatch:
    """The facts in training and the step that moves them all."""

    def __init__(self, upper: UpperLayers, prefix: Prefix, settings: TuningSettings) -> None:
        self._upper = upper
        self._prefix = prefix
        self._settings = settings
        self._limit = -math.log(settings.stop_probability)
        self.trainees: list[Trainee] = []
        self._stacked: _Stacked | None = None

    def __len__(self) -> int:
        return len(self.trainees)

    @property
    def positions(self) -> int:
        """Positions in training, over all facts and wordings."""
        return sum(t.constants.wordings.positions for t in self.trainees)

    def add(self, facts: Sequence[FactConstants]) -> None:
        self.unstack()
        self.trainees += [Trainee.begin(fact, self._upper.schema, self._settings) for fact in facts]

    def unstack(self) -> None:
        """Brings the trainees up to date. Call it before changing them or the list; `step` stacks them again."""
        if self._stacked is not None:
            self._stacked.write_back(self.trainees)
            self._stacked = None

    def step(self) -> list[tuple[Trainee, Trainee]]:
        """One optimiser step of every fact.

        Returns those that seemed finished before it: the trainee, and a copy with the weights it had then.
        """
        if self._stacked is None:
            self._stacked = _Stacked(self._upper, self.trainees, self._prefix)
        losses, gradients = self._stacked.losses_and_gradients(self._upper)
        seem_finished = []
        for place, (trainee, loss) in enumerate(zip(self.trainees, losses.tolist(), strict=True)):
            trainee.worst_loss = loss
            if loss < trainee.check_below:
                seem_finished.append((trainee, self._stacked.copy_of(place, trainee)))
        self._stacked.adam(gradients, self._settings)
        for trainee in self.trainees:
            trainee.steps += 1
            trainee.total_steps += 1
        return seem_finished

    @torch.no_grad()
    def check(self, trainees: Sequence[Trainee]) -> list[Verdict]:
        """Does the model say each fact's answer by itself, to the end token, with the experts as they will be stored?

        The records are made and applied as in serving. A free run is decided in a single pass: as long as every
        token chosen so far is the answer's, its inputs are those of the pass; the first that is not fails the fact.
        """
        batch = collate([t.constants for t in trainees], self._prefix)
        counts = [t.experts for t in trainees]
        records = encoded(
            [weights for t in trainees for weights in t.weights(self._upper.schema.rank)], self._upper.schema
        )
        source = RecordedExperts(
            self._upper.schema,
            records,
            sequence_of=batch.fact_of,
            positions=batch.targets.shape[1],
            indptr=np.concatenate([[0], np.cumsum(counts)]),
            experts=np.arange(sum(counts)),
            weights=np.ones(sum(counts), np.float32),
        )
        return verdicts(self._upper, batch, source, batch.fact_of, len(trainees), self._limit)


@torch.no_grad()
def verdicts(
    upper: UpperLayers, batch: Batch, source: DeltaSource, owner: torch.Tensor, count: int, limit: float
) -> list[Verdict]:
    """What the model says of a batch with the experts of `source`, for each of `count` owners of its wordings.

    owner: int64 [N], whose each wording is. limit: the highest loss that a token may have, in nats.
    """
    with upper.attachment.use(source):
        hidden = upper.hidden(batch)
    said = batch.targets != IGNORED
    logits = upper.logits(hidden[said]).float()
    targets = batch.targets[said]
    loss = -logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    right = logits.argmax(-1) == targets
    owner = owner[:, None].expand(said.shape)[said]
    found = []
    for place in range(count):
        own = owner == place
        likely = logits[own].topk(min(4, upper.vocabulary)).indices
        exact = bool(right[own].all())
        found.append(Verdict(exact and float(loss[own].max()) <= limit, exact, loss[own], likely.unique()))
    return found


class _Stacked:
    """The tensors of all trainees in one piece: what one step computes with.

    The parameters are, per module, A [F, R, d_in] and B transposed [F, R, d_out], where R is the rows of the fact with
    the most experts; rows that a fact does not have are zero, get no gradient and stay zero.
    """

    def __init__(self, upper: UpperLayers, trainees: Sequence[Trainee], prefix: Prefix) -> None:
        self.batch = collate([t.constants for t in trainees], prefix)
        self._scale = upper.schema.alpha / upper.schema.rank
        names = tuple(upper.schema.modules)
        self._rows = [len(t.a[names[0]]) for t in trainees]
        rows = max(self._rows)

        def stack(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
            return torch.stack([torch.nn.functional.pad(t, (0, 0, 0, rows - len(t))) for t in tensors])

        self._parameters = {n: (stack([t.a[n] for t in trainees]), stack([t.b[n] for t in trainees])) for n in names}
        self._first = {n: tuple(stack([t.first[n][i] for t in trainees]) for i in (0, 1)) for n in names}
        self._second = {n: tuple(stack([t.second[n][i] for t in trainees]) for i in (0, 1)) for n in names}
        device = self.batch.hidden.device
        self._steps = torch.tensor([t.steps for t in trainees], dtype=torch.float32, device=device)[:, None, None]
        self._set_shortlists(upper, trainees)

    def losses_and_gradients(self, upper: UpperLayers) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The loss of each fact's worst position, float32 [F], and the gradient of each parameter."""
        flat = [p.requires_grad_() for pair in self._parameters.values() for p in pair]
        source = _TrainableExperts(self._parameters, self.batch.fact_of, self._scale)
        with torch.enable_grad(), upper.attachment.use(source):
            hidden = upper.hidden(self.batch)
            logits = upper.shortlist_logits(hidden, self._head_weight, self._head_bias).float()
            logits = logits.masked_fill(self._absent, -torch.inf)
            loss = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), self._places, ignore_index=IGNORED, reduction="none"
            )
            gradients = torch.autograd.grad(loss.sum(), flat)
        for p in flat:
            p.requires_grad_(False)
        worst = torch.zeros(len(self._rows), device=loss.device)
        return worst.scatter_reduce(0, self.batch.fact_of, loss.detach().amax(1), "amax"), list(gradients)

    def adam(self, gradients: Sequence[torch.Tensor], settings: TuningSettings) -> None:
        """Adam (Kingma and Ba, arXiv 1412.6980, algorithm 1), with a step count for each fact."""
        beta1, beta2 = settings.betas
        self._steps += 1
        parameters = [p for pair in self._parameters.values() for p in pair]
        firsts = [m for pair in self._first.values() for m in pair]
        seconds = [v for pair in self._second.values() for v in pair]
        for p, m, v, gradient in zip(parameters, firsts, seconds, gradients, strict=True):
            m.lerp_(gradient, 1 - beta1)
            v.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            scale = (v / (1 - beta2**self._steps)).sqrt_().add_(_EPSILON)
            p.addcdiv_(m / (1 - beta1**self._steps), scale, value=-settings.learning_rate)

    def copy_of(self, place: int, trainee: Trainee) -> Trainee:
        """The trainee with its weights as they are now, not to be trained further."""
        rows = self._rows[place]
        a = {name: a[place, :rows].clone() for name, (a, _) in self._parameters.items()}
        b = {name: b[place, :rows].clone() for name, (_, b) in self._parameters.items()}
        return replace(trainee, a=a, b=b)

    def write_back(self, trainees: Sequence[Trainee]) -> None:
        for place, (trainee, rows) in enumerate(zip(trainees, self._rows, strict=True)):
            for name, (a, b) in self._parameters.items():
                trainee.a[name], trainee.b[name] = a[place, :rows].clone(), b[place, :rows].clone()
                first, second = self._first[name], self._second[name]
                trainee.first[name] = (first[0][place, :rows].clone(), first[1][place, :rows].clone())
                trainee.second[name] = (second[0][place, :rows].clone(), second[1][place, :rows].clone())

    def _set_shortlists(self, upper: UpperLayers, trainees: Sequence[Trainee]) -> None:
        """Per wording: the head's rows for its fact's shortlist, and where in it each target is."""
        length = max(len(t.shortlist) for t in trainees)
        tokens = torch.stack([torch.nn.functional.pad(t.shortlist, (0, length - len(t.shortlist))) for t in trainees])
        sizes = torch.tensor([len(t.shortlist) for t in trainees], device=tokens.device)
        absent = torch.arange(length, device=tokens.device) >= sizes[:, None]
        owner = self.batch.fact_of
        self._absent = absent[owner][:, None]
        self._head_weight, self._head_bias = upper.head_rows(tokens[owner])
        matches = (self.batch.targets[:, :, None] == tokens[owner][:, None]) & ~self._absent
        self._places = matches.float().argmax(-1).masked_fill(self.batch.targets == IGNORED, IGNORED)


@dataclass(frozen=True)
class _TrainableExperts(DeltaSource):
    """The differentiable form of the delta: y + alpha/r * B A x, each wording with its fact's A and B."""

    parameters: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    fact_of: torch.Tensor
    scale: float

    def add_delta(self, module: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        a, b = self.parameters[module]
        inner = x.float() @ a[self.fact_of].transpose(1, 2)
        return y + (self.scale * (inner @ b[self.fact_of])).to(y.dtype)


def encoded(experts: Sequence[Weights], schema: ExpertSchema) -> NDArray[np.uint8]:
    """The records of experts as a store will hold them, back to back; only the ids in the trailers will differ."""
    return np.frombuffer(b"".join(encode_record(schema, weights, 0, 0, 0) for weights in experts), np.uint8)


class RecordedExperts(DeltaSource):
    """The records that the store will hold, applied by the kernel that will serve them.

    records: as `encoded` gives them. sequence_of: int64 [N], which sequence of the tables each wording of a batch
    belongs to. positions: of a wording. indptr, experts, weights: the experts (places in `records`) of sequence s are
    `experts[indptr[s] : indptr[s + 1]]`, and so are their weights.
    """

    def __init__(
        self,
        schema: ExpertSchema,
        records: NDArray[np.uint8],
        sequence_of: torch.Tensor,
        positions: int,
        indptr: NDArray[np.integer[Any]],
        experts: NDArray[np.int64],
        weights: NDArray[np.float32],
    ) -> None:
        self._schema = schema
        self._records = records  # the tables hold their addresses
        rows = torch.arange(sequence_of.numel() * positions, dtype=torch.int32)
        tables = ExpertTables(
            torch.from_numpy(indptr.astype(np.int32)),
            torch.from_numpy(records.ctypes.data + schema.record_bytes * experts),
            torch.full((len(experts),), schema.rank, dtype=torch.int32),
            torch.from_numpy(weights),
        )
        self._routed_rows = RoutedRows(rows, sequence_of.repeat_interleave(positions).to(torch.int32), tables)

    def add_delta(self, module: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        y = y.contiguous()
        self._routed_rows.apply(self._schema, module, y, x)
        return y
