"""Each field of the terms: what it says, in words, and by which part of the site's policy it is judged.

A field that is not in RULES is refused. Whoever adds a field to the terms writes its rule here: what it says to a
person at a hospital, and whether the site's policy bounds it (BOUND, unless another part of the policy does). NOBODY is
for a field that changes nothing of what the site does, gives or risks, and says why. A strategy's parameters bring
their words along, and are bounded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import UnionType
from typing import Any, get_args, get_type_hints

from common.terms import Terms, parameter_fields
from site_agent.domain.policy import BaseModelDigests, Range, SitePolicy, admits, in_words, words_of


class By(StrEnum):
    """Which part of the policy judges a field."""

    BOUND = "terms"  # the table `terms`, by the field's path; a path that is not there must have its default
    BASE_MODEL = "base_models"
    STRATEGY = "strategies"
    RANK = "max_lora_rank"
    DTYPE = "egress.dtypes"
    NOBODY = ""
    NOTHING_KNOWN = "-"  # no rule: refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a field says, ``{}`` standing for its value; ``why`` nobody judges it."""

    words: str
    by: By = By.BOUND
    why: str = ""


def _free(words: str, why: str) -> Rule:
    return Rule(words=words, by=By.NOBODY, why=why)


_OPERATOR = "the coordinator's own waiting; this site can decline at any time"
_SERVING = "it decides which adapter the consortium serves, from adapters that it has already"

RULES: Mapping[str, Rule] = {
    "name": _free("The run is called {}.", "a name"),
    "base_model.name": _free("It adapts the base model {}.", "a name for people; the digests decide"),
    "base_model.weights_digest": Rule(words="The base model's weights are {}.", by=By.BASE_MODEL),
    "base_model.tokenizer_digest": Rule(words="Its tokenizer is {}.", by=By.BASE_MODEL),
    "base_model.chat_template_digest": Rule(words="Its chat template is {}.", by=By.BASE_MODEL),
    "lora.lora_rank": Rule(words="The adapter has rank {}: the higher, the more it can hold.", by=By.RANK),
    "lora.least_lora_rank": Rule(words="Sites may train at lower ranks, from {} on; 0: they may not.", by=By.RANK),
    "lora.lora_alpha": Rule(words="The adapter's scale is {} over its rank."),
    "lora.lora_dropout": Rule(words="A share of {} of its inputs is dropped in training."),
    "lora.target_modules": Rule(words="It changes the modules {}."),
    "task.entity_types": Rule(words="It learns to find entities of the types {}."),
    "task.relation_types": Rule(words="It learns to find relations of the types {}."),
    "task.relations_only": Rule(words="It learns relations alone, between entities that are given: {}."),
    "task.prompt_form": Rule(words="The model answers in the form {}."),
    "task.max_new_tokens": Rule(words="An answer has at most {} tokens."),
    "training.local_epochs": Rule(words="In each round your examples are gone through {} times."),
    "training.learning_rate": Rule(words="The learning rate is {}."),
    "training.lora_plus_ratio": Rule(words="Factor B learns {} times as fast as A."),
    "training.schedule": Rule(words="The learning rate's schedule is {}."),
    "training.warmup_ratio": Rule(words="A share of {} of the steps warms up."),
    "training.weight_decay": Rule(words="The weight decay is {}."),
    "training.max_grad_norm": Rule(words="Gradients are clipped at norm {}."),
    "training.batch_size": Rule(words="A step takes at most {} examples."),
    "training.tokens_per_batch": Rule(words="A step takes at most {} tokens, which decides the memory it needs."),
    "training.max_length": Rule(words="Examples of more than {} tokens are left out."),
    "training.loss_on": Rule(words="It learns from {}; with prompt_and_answer, from the note's own words too."),
    "training.quantization": Rule(words="The base weights are held as {}."),
    "training.gradient_checkpointing": Rule(words="Gradient checkpointing, which trades time for memory: {}."),
    "training.examples_per_round": Rule(words="A round takes {} of your examples at most; 0 takes all."),
    "training.seed": _free("The seed is {}.", "any number serves as well as another"),
    "training.proximal_mu": Rule(words="Distance from the global adapter costs {} (FedProx); 0, nothing."),
    "training.max_empty_share": Rule(words="A share of {} of your examples at most has nothing to find; 0: any share."),
    "aggregation.strategy": Rule(words="Updates are combined by the strategy {}.", by=By.STRATEGY),
    "aggregation.weight_by": Rule(words="A site weighs by {}."),
    "aggregation.wire_dtype": Rule(words="Tensors travel as {}.", by=By.DTYPE),
    "aggregation.server_momentum": Rule(words="A share of {} of its last move is added to the aggregate."),
    **{f"{section}.{each.name}": Rule(words=each.metadata["words"]) for section, each in parameter_fields()},
    "admission.max_num_examples": _free("It takes updates of at most {} examples.", "what the coordinator refuses"),
    "admission.max_num_label_tokens": _free("It takes updates of at most {} label tokens.", "as above"),
    "admission.requires_signatures": _free("It takes signed updates alone: {}.", "a site without a key declines"),
    "rounds.keeps_updates": Rule(words="Each update is kept, to be given to whoever checks the aggregate: {}."),
    "rounds.count": Rule(words="It has {} rounds; an update leaves in each."),
    "rounds.quorum": Rule(words="At least {} sites are combined: the fewer, the more of yours is in the aggregate."),
    "rounds.sites": _free("It invites {}; no name means every site.", "who is in the federation is its consortium's"),
    "rounds.train_deadline": _free("Sites have {} s to train.", _OPERATOR),
    "rounds.grace": _free("It waits {} s for the last ones.", _OPERATOR),
    "rounds.evaluate_deadline": _free("An evaluator has {} s.", _OPERATOR),
    "gate.metric": _free("A new adapter is compared by {}.", _SERVING),
    "gate.test_digest": _free("The test set that must not be learned from is {}.", _SERVING),
    "gate.min_improvement": _free("It must be better by {}.", _SERVING),
    "gate.on_rejection": _free("After a rejection: {}.", _SERVING),
    "gate.on_evaluator_absent": _free("When no evaluator answers: {}.", _SERVING),
}
_MISSING_RULE = Rule(words="A setting that this version cannot explain: {}.", by=By.NOTHING_KNOWN)
# In these the consortium's evaluator reads each update by itself, to score it.
SCORED_STRATEGIES = frozenset({"fed_medlora_plus"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TermVerdict:
    """One field of the terms, and what the policy says to it.

    Attributes:
        words: What the field says, for a person.
        expected: What the policy lets in; empty when nobody judges the field.
    """

    path: str
    words: str
    got: str
    expected: str
    is_allowed: bool


def judge_terms(terms: Terms, policy: SitePolicy, *, is_trained: bool) -> tuple[TermVerdict, ...]:
    """Every field of ``terms`` against ``policy``, in the order of the terms.

    ``is_trained``: whether this agent trains in the run; to make or score an adapter is the same in every strategy.
    """
    verdicts = []
    for path, value, default in fields_of(terms):
        rule = RULES.get(path, _MISSING_RULE)
        if rule.by is By.STRATEGY and not is_trained:
            rule = dataclasses.replace(rule, by=By.NOBODY)
        got = ", ".join(words_of(value)) or "none"
        expected, is_allowed = _bounded(rule, path, (value, default), terms, policy)
        verdicts.append(
            TermVerdict(path=path, words=rule.words.format(got), got=got, expected=expected, is_allowed=is_allowed)
        )
    return tuple(verdicts)


def fields_of(section: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Path, value and default of every field, sections within sections included; a section that is not set has none."""
    for each in dataclasses.fields(section):
        value, here = getattr(section, each.name), f"{path}{each.name}"
        if dataclasses.is_dataclass(value):
            yield from fields_of(value, f"{here}.")
        elif value is not None or each.default is not None:
            yield here, value, each.default


def every_field(section: Any = Terms, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and default of every field that terms can have, those of every strategy's parameters included."""
    hints = get_type_hints(section)
    for each in dataclasses.fields(section):
        here, hint = f"{path}{each.name}", hints[each.name]
        kinds = [kind for kind in (get_args(hint) if isinstance(hint, UnionType) else (hint,)) if is_section(kind)]
        if kinds:
            yield from every_field(kinds[0], f"{here}.")
        else:
            yield here, each.default


def is_section(kind: Any) -> bool:
    """Whether a field of this type is a section of the terms, with fields of its own."""
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def _bounded(
    rule: Rule, path: str, value_and_default: tuple[Any, Any], terms: Terms, policy: SitePolicy
) -> tuple[str, bool]:
    """What the policy expects of the field, and whether the value is that."""
    value, default = value_and_default
    match rule.by:
        case By.NOBODY:
            return "", True
        case By.NOTHING_KNOWN:
            return "a field that this version has a rule for", False
        case By.BASE_MODEL:
            return _of_a_base_model(path, value, terms, policy)
        case By.STRATEGY:
            return "one of " + ", ".join(sorted(policy.strategies)), value in policy.strategies
        case By.RANK:  # where sites have a choice, each trains at what its policy allows, and tells that in its polls
            ranks = Range(least=1, most=policy.max_lora_rank)
            return in_words(ranks), admits(ranks, terms.lora.least_lora_rank or terms.lora.lora_rank)
        case By.DTYPE:
            return "one of " + ", ".join(sorted(policy.egress.dtypes)), str(value) in policy.egress.dtypes
        case By.BOUND:
            return _within(path, value, default, policy)


def _within(path: str, value: Any, default: Any, policy: SitePolicy) -> tuple[str, bool]:
    if policy.terms is None:
        return "", True  # nobody wrote a bound down: whoever approves the run looks at the value
    bound = policy.terms.get(path)
    if bound is not None:
        return in_words(bound), admits(bound, value)
    return f"{', '.join(words_of(default)) or 'none'} (the default: the policy does not name it)", value == default


def _of_a_base_model(path: str, value: Any, terms: Terms, policy: SitePolicy) -> tuple[str, bool]:
    """A digest counts only together with the two others: half of one model and half of another is neither."""
    if policy.base_models is None:
        return "", True
    got = terms.base_model
    known = BaseModelDigests(
        weights=got.weights_digest, tokenizer=got.tokenizer_digest, chat_template=got.chat_template_digest
    )
    part = path.removeprefix("base_model.").removesuffix("_digest")
    digests = sorted(str(getattr(each, part)) for each in policy.base_models)
    return "one of " + ", ".join(digests), known in policy.base_models
