"""The experts of a pool in training: all of them together, on all facts, with the selection frozen.

A step moves the experts that a batch of wordings has selected, by Adam with a step count for each expert, so that an
expert which is asked for seldom is corrected as one that is asked for often. What a step computes is cut down as in
owned mode (base_pass.py, upper_layers.py): constants once, the upper layers, a shortlist of tokens. The delta is that
of k weighted experts a wording, computed over the U experts that any wording of the batch selects:

    y += alpha/r * ((x A^T) * weights) B

with A [U r, d_in], B [U r, d_out] and weights [wordings, U r], 0 for what a wording did not select.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from mome_store.modeling.memory_linear import DeltaSource
from mome_store.store.record import Weights
from mome_store.tuning.base_pass import fact_constants, prefix_constants
from mome_store.tuning.constants import IGNORED, Batch, FactConstants, Prefix, Wordings, collate, common_prefix
from mome_store.tuning.pool_settings import PoolSettings
from mome_store.tuning.pool_starts import Pair, Starts
from mome_store.tuning.training_batch import RecordedExperts, Verdict, encoded, verdicts
from mome_store.tuning.tuner import passes
from mome_store.tuning.upper_layers import UpperLayers

_EPSILON = 1e-8  # Adam's
_CHECK_MARGIN = 0.8
_CHECK_EVERY = 10
"""Epochs after which to look at the whole vocabulary: what is trained on one fact makes tokens likely in others, whose
shortlists don't have them."""


@dataclass(frozen=True, eq=False)
class SelectedWordings:
    """Every wording in training, and the experts that it selects.

    wordings: each with one prompt. fact_of: the place of its fact. experts: int64 [n, k], places in the pool;
    weights: float32 [n, k].
    """

    wordings: Sequence[Wordings]
    fact_of: Sequence[int]
    experts: NDArray[np.int64]
    weights: NDArray[np.float32]


class PoolTraining:
    """A pool's experts while they are trained.

    experts: how many. start: module -> (A [experts, r, d_in], B transposed [experts, r, d_out]) of experts that there
    are already; None: A where the wordings are heard (`pool_starts.py`), B = 0.

    Attributes: `epochs` and `steps` so far; `losses`, float32 [wordings], of each wording's worst position when it was
    last trained; `mean_loss` over all positions in the last epoch, in nats. Both are over the shortlists.
    `learning_rate`: of the next step; the settings' unless somebody changes it.
    """

    def __init__(
        self,
        upper: UpperLayers,
        selected: SelectedWordings,
        experts: int,
        activation: str,
        settings: PoolSettings,
        start: Mapping[str, Pair] | None = None,
    ) -> None:
        self._upper = upper
        self._settings = settings
        self._k = selected.experts.shape[1]
        self._limit = -math.log(settings.stop_probability)
        self._generator = torch.Generator().manual_seed(settings.seed)
        self.epochs = 0
        self.steps = 0
        self.mean_loss = math.inf
        self.learning_rate = settings.learning_rate
        self.losses = torch.full((len(selected.wordings),), math.inf)
        device = upper.model.device
        whole_prompt = activation == "all"
        prompts = [each.prompts[0] for each in selected.wordings]
        prefix = prefix_constants(upper, () if whole_prompt else common_prefix(prompts))
        rank = 0 if start is not None else upper.schema.rank
        self._batches: list[_PoolBatch] = []
        starts = Starts(upper.schema, experts, selected.experts, selected.weights)
        for rows in self._parts(selected, whole_prompt):
            constants = list(
                _constants(upper, [selected.wordings[i] for i in rows], prefix, whole_prompt, settings, rank)
            )
            self._batches.append(_PoolBatch.of(upper, rows, constants, selected, prefix))
            starts.offer(rows, [each.directions for each in constants])
        if start is None:
            start = starts.made(self._generator)
        self._parameters = {name: (a.to(device, copy=True), b.to(device, copy=True)) for name, (a, b) in start.items()}
        self._first = {name: _zeros_like(pair) for name, pair in self._parameters.items()}
        self._second = {name: _zeros_like(pair) for name, pair in self._parameters.items()}
        self._expert_steps = torch.zeros(experts, device=device)

    @property
    def at_bar(self) -> torch.Tensor:
        """bool [wordings]: whether the loss was below the bar, with a margin, when the wording was last trained."""
        return self.losses < _CHECK_MARGIN * self._limit

    def run(
        self,
        on_epoch: Callable[[PoolTraining], None] | None = None,
        seconds: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> list[Verdict]:
        """Epochs until every wording passes the check, `max_epochs` are made or `seconds` are over; the last check's
        verdicts, as of `check`.

        At least one epoch is made, and one that was begun is ended. clock: in seconds.
        """
        begin = clock()
        while True:
            self.epoch()
            if on_epoch is not None:
                on_epoch(self)
            last = self.epochs >= self._settings.max_epochs or clock() - begin >= seconds
            if last or bool(self.at_bar.all()) or self.epochs % _CHECK_EVERY == 0:
                found = self.check()
                if last or all(verdict.passed for verdict in found):
                    return found
                self.learn_from(found)

    def run_for(
        self,
        seconds: float,
        on_step: Callable[[float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Steps for so long, with no bar to reach; the learning rate falls to a tenth on the way.

        For experts that are to be used on questions which they were not trained on: those must not be memorised to the
        end. At least one step is made. on_step: told the share of the time that is spent. clock: in seconds.
        """
        begin = clock()
        share = 0.0
        while share < 1:
            total = positions = 0.0
            for place in torch.randperm(len(self._batches), generator=self._generator).tolist():
                self.learning_rate = self._settings.learning_rate * (1 - 0.9 * share)
                total += self._step(self._batches[place])
                positions += int((self._batches[place].targets != IGNORED).sum())
                share = min((clock() - begin) / seconds, 1.0)
                if on_step is not None:
                    on_step(share)
                if share >= 1:
                    break
            self.mean_loss = total / positions
            self.epochs += 1

    def epoch(self) -> None:
        """One step on every wording, batch after batch."""
        total = positions = 0.0
        for place in torch.randperm(len(self._batches), generator=self._generator).tolist():
            total += self._step(self._batches[place])
            positions += int((self._batches[place].targets != IGNORED).sum())
        self.mean_loss = total / positions
        self.epochs += 1

    def check(self) -> list[Verdict]:
        """The verdict on each wording, by the experts as they will be stored, applied as in serving."""
        experts = self.stacked()
        records = encoded(
            [{name: (a[i], b[i]) for name, (a, b) in experts.items()} for i in range(len(self._expert_steps))],
            self._upper.schema,
        )
        found: dict[int, Verdict] = {}
        for batch in self._batches:
            source = RecordedExperts(
                self._upper.schema,
                records,
                sequence_of=batch.batch.fact_of,
                positions=batch.batch.targets.shape[1],
                indptr=np.arange(0, batch.experts.size + 1, self._k),
                experts=batch.experts.reshape(-1),
                weights=batch.weights.reshape(-1),
            )
            each = verdicts(self._upper, batch.batch, source, batch.batch.fact_of, len(batch.rows), self._limit)
            found |= zip(batch.rows, each, strict=True)
        return [found[row] for row in range(len(found))]

    def learn_from(self, verdicts: Sequence[Verdict]) -> None:
        """After a failed check: what was too likely in the wordings that failed competes from now on."""
        for batch in self._batches:
            batch.compete(self._upper, [verdicts[row].rivals for row in batch.rows if not verdicts[row].passed])

    def stacked(self) -> Weights:
        """The experts as `Transaction.add_groups` takes them: module -> (A [M, r, d_in], B [M, d_out, r]), float32."""
        return {name: (a.cpu().numpy(), b.transpose(1, 2).cpu().numpy()) for name, (a, b) in self._parameters.items()}

    def _parts(self, selected: SelectedWordings, whole_prompt: bool) -> Iterator[list[int]]:
        """The wordings, by place, in batches of like length."""
        sizes = [(len(w.answer), len(w.prompts[0])) for w in selected.wordings]
        order = sorted(range(len(sizes)), key=lambda i: sum(sizes[i]) if whole_prompt else sizes[i])
        part: list[int] = []
        for i in order:
            longest = sum(sizes[i]) if whole_prompt else sizes[i][0]
            full = len(part) == self._settings.batch_wordings or (len(part) + 1) * longest > self._settings.batch_tokens
            if part and full:
                yield part
                part = []
            part.append(i)
        yield part

    def _step(self, batch: _PoolBatch) -> float:
        """Moves the experts of a batch; returns the sum of its losses before."""
        used = batch.union
        parameters = {name: (a[used], b[used]) for name, (a, b) in self._parameters.items()}
        flat = [p.requires_grad_() for pair in parameters.values() for p in pair]
        scale = self._upper.schema.alpha / self._upper.schema.rank
        source = _TrainablePool(parameters, batch.union_weights, scale)
        with torch.enable_grad(), self._upper.attachment.use(source):
            hidden = self._upper.hidden(batch.batch)
            logits = self._upper.shortlist_logits(hidden, batch.head_weight, batch.head_bias).float()
            loss = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), batch.targets, ignore_index=IGNORED, reduction="none"
            )
            gradients = torch.autograd.grad(loss.sum(), flat)
        self.losses[batch.rows] = loss.detach().amax(1).cpu()
        self._adam(used, gradients)
        self.steps += 1
        return float(loss.detach().sum())

    @torch.no_grad()
    def _adam(self, used: torch.Tensor, gradients: Sequence[torch.Tensor]) -> None:
        """Adam (Kingma and Ba, arXiv 1412.6980, algorithm 1) of the experts `used`; the others stay as they are."""
        beta1, beta2 = self._settings.betas
        self._expert_steps[used] += 1
        steps = self._expert_steps[used][:, None, None]
        triples = [
            triple
            for name in self._parameters
            for triple in zip(self._parameters[name], self._first[name], self._second[name], strict=True)
        ]
        for (p, m, v), gradient in zip(triples, gradients, strict=True):
            first = m[used].lerp_(gradient, 1 - beta1)
            second = v[used].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            scale = (second / (1 - beta2**steps)).sqrt_().add_(_EPSILON)
            p[used] -= self.learning_rate * first / (1 - beta1**steps) / scale
            m[used], v[used] = first, second


@dataclass(eq=False)
class _PoolBatch:
    """Wordings that make a step together.

    rows: their places. experts, weights: [N, k]. union: int64 [U], the experts that
    any of them selects; union_weights: float32 [N, 1, U * rank], one for each row of the union's A.
    shortlist: int64 [L], ascending: the tokens that compete. targets: int64 [N, T], places in it.
    """

    rows: list[int]
    batch: Batch
    experts: NDArray[np.int64]
    weights: NDArray[np.float32]
    union: torch.Tensor
    union_weights: torch.Tensor
    shortlist: torch.Tensor
    targets: torch.Tensor
    head_weight: torch.Tensor
    head_bias: torch.Tensor | None

    @classmethod
    def of(
        cls,
        upper: UpperLayers,
        rows: list[int],
        constants: Sequence[FactConstants],
        selected: SelectedWordings,
        prefix: Prefix,
    ) -> _PoolBatch:
        device = upper.model.device
        experts, weights = selected.experts[rows], selected.weights[rows]
        union, place = np.unique(experts, return_inverse=True)
        spread = torch.zeros(len(rows), len(union))
        spread.scatter_(1, torch.from_numpy(place.reshape(experts.shape)), torch.from_numpy(weights))
        empty = torch.empty(0, dtype=torch.int64, device=device)
        made = cls(
            rows=rows,
            batch=collate(constants, prefix),
            experts=experts,
            weights=weights,
            union=torch.from_numpy(union).to(device),
            union_weights=spread.repeat_interleave(upper.schema.rank, 1)[:, None].to(device),
            shortlist=empty,
            targets=empty,
            head_weight=empty,
            head_bias=None,
        )
        made.compete(upper, [each.shortlist for each in constants])
        return made

    def compete(self, upper: UpperLayers, tokens: Sequence[torch.Tensor]) -> None:
        """Puts tokens on the shortlist."""
        if not tokens:
            return
        self.shortlist = torch.cat([self.shortlist, *tokens]).unique()
        weight, bias = upper.head_rows(self.shortlist)
        self.head_weight, self.head_bias = weight[None], None if bias is None else bias[None]
        said = self.batch.targets != IGNORED
        self.targets = torch.full_like(self.batch.targets, IGNORED)
        self.targets[said] = torch.searchsorted(self.shortlist, self.batch.targets[said])


@dataclass(frozen=True)
class _TrainablePool(DeltaSource):
    """The differentiable delta, as at the head of this file. parameters: A [U, r, d_in], B [U, r, d_out]."""

    parameters: Mapping[str, Pair]
    weights: torch.Tensor
    scale: float

    def add_delta(self, module: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        a, b = (p.flatten(0, 1) for p in self.parameters[module])
        inner = (x.float() @ a.T) * self.weights
        return y + (self.scale * (inner @ b)).to(y.dtype)


def _constants(
    upper: UpperLayers,
    wordings: Sequence[Wordings],
    prefix: Prefix,
    whole_prompt: bool,
    settings: PoolSettings,
    rank: int,
) -> Iterator[FactConstants]:
    """The constants of each wording. whole_prompt: experts act on the prompt too, so its positions are computed with.

    Then everything after the prompt's first token is given as the answer, of which only the real one has targets.
    """
    before = [len(w.prompts[0]) - 1 if whole_prompt else 0 for w in wordings]
    if whole_prompt:
        wordings = [replace(w, prompts=(w.prompts[0][:1],), answer=(*w.prompts[0][1:], *w.answer)) for w in wordings]
    computed = (
        each for part in passes(wordings) for each in fact_constants(upper, part, prefix, settings.competitors, rank)
    )
    for each, length in zip(computed, before, strict=True):
        each.targets[:, :length] = IGNORED
        yield each


def _zeros_like(pair: Pair) -> Pair:
    return torch.zeros_like(pair[0]), torch.zeros_like(pair[1])
