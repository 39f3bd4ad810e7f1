"""The site's policy as a file: the shipped example, what is refused, and that it goes with identity and address."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import InputInvalidError, Reason
from common.terms import Terms
from common.tls import Role
from demo.policy import Egress
from site_agent.adapters.approval_folder import ApprovalFolder
from site_agent.adapters.identity_files import read_identity
from site_agent.config import SiteConfig
from site_agent.domain.policy import METRICS, Anything, Choice, Hours, Range
from site_agent.domain.term_rules import RULES, By, judge_terms
from site_agent.policy_file import WrittenPolicy, load_policy
from site_agent.wiring import decide, policy_of
from tests.fakes.site_policies import policy_for, write_policy
from tests.fakes.site_scene import NOON
from tests.fakes.site_values import make_terms
from tests.running import Consortium, make_consortium

EXAMPLE = Path(__file__).parents[2] / "docker/config/policy.example.toml"
TEXT = EXAMPLE.read_text()


def load(folder: Path, text: str) -> WrittenPolicy:
    path = folder / "policy.toml"
    path.write_text(text)
    return load_policy(path, {"train"}, None)


def test_the_example_bounds_every_field_that_the_policy_bounds() -> None:
    """A field that the example does not name would have to keep its default, and nobody could read what it may be."""
    policy = load_policy(EXAMPLE, {"train"}, None).policy
    parameters = {path for path in RULES if path.count(".") > 1}  # of strategies that the example does not take part in
    assert policy.terms is not None
    assert set(policy.terms) == {path for path, rule in RULES.items() if rule.by is By.BOUND} - parameters


def test_the_examples_commented_lines_show_the_defaults(tmp_path: Path) -> None:
    uncommented = re.sub(r"(?m)^# (?=[a-z_]+ = )", "", TEXT)
    assert uncommented.count("\n# ") < TEXT.count("\n# ")
    shown, example = (read.policy for read in (load(tmp_path, uncommented), load_policy(EXAMPLE, {"train"}, None)))
    assert replace(shown, digest=example.digest) == example


def test_the_example_says_what_it_means() -> None:
    policy = load_policy(EXAMPLE, {"train"}, None).policy
    assert policy.terms is not None
    assert policy.terms["training.learning_rate"] == Range(least=1e-6, most=1e-3)
    assert policy.terms["training.loss_on"] == Choice(words=frozenset({"answer"}))
    assert policy.terms["training.schedule"] == Anything()
    assert (policy.max_lora_rank, policy.egress.min_examples, policy.egress.smallest_cell) == (16, 100, 10)
    assert policy.egress.metrics == {"num_examples", "num_label_tokens"}
    assert not (policy.has_standing_approval or policy.egress.may_tell_losses)


@pytest.mark.parametrize("path", sorted({line.split(" = ")[0] for line in re.findall(r"(?m)^[a-z_]+ = .*$", TEXT)}))
def test_a_misspelt_key_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(InputInvalidError, match=r"unknown key|expected a value"):
        load(tmp_path, re.sub(rf"(?m)^{path} = ", f"{path}x = ", TEXT, count=1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("learning_rate = [1e-6, 1e-3]", "learning_rate = [1e-3, 1e-6]", r"training.learning_rate: expected \[least"),
        ("learning_rate = [1e-6, 1e-3]", "learning_rate = 1e-3", "training.learning_rate: expected"),
        ("learning_rate = [1e-6, 1e-3]", 'learning_rate = ["1", "2"]', "training.learning_rate: expected"),
        ('loss_on = ["answer"]', 'loss_on = ["answers"]', "training.loss_on: expected a list of some of"),
        ('loss_on = ["answer"]', "loss_on = []", "training.loss_on: expected"),
        ('gradient_checkpointing = "any"', 'gradient_checkpointing = ["no"]', "gradient_checkpointing: expected"),
        ("[terms.lora]", "[terms.lora]\nlora_rank = [1, 99]", "lora.lora_rank: judged by max_lora_rank, not here"),
        ("[terms.rounds]", "[terms.rounds]\ngrace = [1, 99]", "rounds.grace: judged by nobody"),
        ("[terms.rounds]", "[terms.squares]", "terms.squares.count: unknown key"),
        ("# hours = []", 'hours = ["25:00-26:00"]', "expected hours"),
        ("# hours = []", 'hours = ["08:00-08:00"]', "expected hours"),
        ('# time_zone = "UTC"', 'time_zone = "Mars/Olympus"', "expected a time zone"),
        ("# gpu_share = 1.0", "gpu_share = 0.0", "gpu_share"),
        ("min_examples = 100", "min_examples = 0", "min_examples"),
        ("max_norm = 1000.0", "max_norm = inf", "max_norm"),
        ('# dtypes = ["bf16", "f32"]', 'dtypes = ["f64"]', "dtypes"),
        ('# metrics = ["num_examples", "num_label_tokens"]', 'metrics = ["names"]', "metrics: expected some of"),
        ("weights_digest = ", 'weights_digest = "sha256:1" #', "base_models.0.weights_digest: digest: expected"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(InputInvalidError, match=message) as caught:
        load(tmp_path, TEXT.replace(old, new, 1))
    assert caught.value.reason is Reason.CONFIG_INVALID


def test_hours_and_their_zone_are_read(tmp_path: Path) -> None:
    path = write_policy(tmp_path / "p.toml", make_terms(), hours=["19:00-06:30"], time_zone="UTC", rounds_a_day=3)
    policy = load_policy(path, {"train"}, None).policy
    assert (policy.hours, policy.max_rounds_a_day) == ((Hours(begins_minute=1140, ends_minute=390),), 3)


def test_a_policy_for_a_run_lets_that_run_in(tmp_path: Path) -> None:
    terms = make_terms()
    policy = policy_for(tmp_path, terms, egress=Egress(metrics=tuple(METRICS)))
    assert all(each.is_allowed for each in judge_terms(terms, policy, is_trained=True))


# The policy beside the rest of the site's files


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return make_consortium(tmp_path_factory.mktemp("consortium"))


def configured(folder: Path, consortium: Consortium, address: str = "localhost:1", **policy: object) -> WrittenPolicy:
    identity = consortium.identity("anna", Role.SITE)
    return policy_of(site_config(folder, identity, address, **policy), read_identity(identity))


def site_config(folder: Path, identity: Path, address: str = "localhost:1", **policy: object) -> SiteConfig:
    return SiteConfig.model_validate(
        {
            "coordinator": {"address": address},
            "identity": {"folder": identity},
            "site": {"state_folder": folder},
            "base_model": {"location": "."},
            "data": {"train": ("notes",)},
            "policy": policy,
        }
    )


def test_a_decision_under_a_policy_that_cannot_be_read_is_not_kept(tmp_path: Path) -> None:
    folder, terms = ApprovalFolder(tmp_path), make_terms()
    folder.show(terms, NOON)
    (tmp_path / "policy.toml").write_text("no policy")
    with pytest.raises(InputInvalidError):
        decide(site_config(tmp_path, tmp_path, file=tmp_path / "policy.toml"), terms.digest, is_approved=True)
    assert folder.verdict(terms.digest) is None


def written(folder: Path, terms: Terms, **changes: str) -> Path:
    path = write_policy(folder / "policy.toml", terms)
    for old, new in changes.items():
        path.write_text(path.read_text().replace(f'"{old}"', f'"{new}"'))
    return path


def test_a_policy_that_names_the_coordinator_and_the_consortium_is_the_agents(
    tmp_path: Path, consortium: Consortium
) -> None:
    policy = configured(tmp_path, consortium, file=written(tmp_path, make_terms())).policy
    assert (policy.kinds, policy.has_standing_approval) == (frozenset({"train"}), True)


@pytest.mark.parametrize(
    ("changes", "address", "message"),
    [
        ({}, "elsewhere:1", "federation.coordinators: expected elsewhere, which is dialled, got localhost"),
        ({"demo": "others"}, "localhost:1", "federation.consortium: expected demo, of the certificate, got others"),
    ],
)
def test_an_agent_does_not_start_under_a_policy_for_another_federation(
    tmp_path: Path, consortium: Consortium, changes: dict[str, str], address: str, message: str
) -> None:
    with pytest.raises(InputInvalidError, match=message):
        configured(tmp_path, consortium, address, file=written(tmp_path, make_terms(), **changes))


def test_strategies_beside_the_file_make_it_narrower_and_never_wider(tmp_path: Path, consortium: Consortium) -> None:
    path = written(tmp_path, make_terms())
    assert configured(tmp_path, consortium, file=path).policy.strategies == {"fed_medlora"}
    narrowed = configured(tmp_path, consortium, file=path, strategies=("krum",)).policy
    assert narrowed.strategies == frozenset()


def test_yesterdays_configuration_takes_part_as_before_once_a_person_approves(
    tmp_path: Path, consortium: Consortium
) -> None:
    policy = configured(tmp_path, consortium, strategies=("krum",)).policy
    assert (policy.strategies, policy.has_standing_approval, policy.terms) == (frozenset({"krum"}), False, None)
