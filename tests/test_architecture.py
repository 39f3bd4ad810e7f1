"""The laws of docs/design.md that a program can check. Import contracts are in .importlinter; style is ruff's."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from google.protobuf.descriptor import FileDescriptor

from common.errors import Reason
from coordinator.adapters.rpc.access import ROLES_BY_RPC, RPCS_BY_JOIN_TOKEN
from fedmedlora.v1 import errors_pb2

ROOT = Path(__file__).parents[1]
SERVICES = ("common", "coordinator", "site_agent")
PACKAGES = (*SERVICES, "demo", "lab", "benchmarks")
PROTOS = sorted((ROOT / "proto/fedmedlora/v1").glob("*.proto"))

MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 400, 60, 6
MEDIAN_FILE_LINES, MEDIAN_FUNCTION_LINES = 130, 10

BANNED_STEMS = frozenset({"Manager", "Handler", "Processor", "Helper", "Util", "Utils", "Data", "Info"})
# Words that the glossary replaces, as far as each can mean nothing else in a class name.
BANNED_WORDS = re.compile(
    "Server|Client|Node|Worker|Collaborator|Cluster|Registration|Onboarding|Blacklist|Participant|User|Job|Epoch|"
    "Gradient|Algorithm|Zoo|Deployment"
)
# What gRPC itself calls the two ends of a channel; adapters may say so.
GRPC_WORDS = {"Server", "Client"}
# The operating system's, a noun.
NOUNS = frozenset({"process_group"})

TRAINING_LIBRARIES = frozenset({"accelerate", "bitsandbytes", "peft", "safetensors", "torch", "transformers"})
# Each can run code that came in a file.
CODE_FROM_FILES = frozenset({"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"})
# What comes out otherwise each time.
UNREPEATABLE = frozenset(
    {
        "concurrent",
        "multiprocessing",
        "random",
        "secrets",
        "socket",
        "subprocess",
        "tempfile",
        "threading",
        "time",
        "uuid",
    }
)
# Modules that come with a dependency, and are documented as part of its own interface, or are what its calls raise.
PART_OF = {
    "huggingface_hub": "transformers",
    "pydantic_core": "pydantic",
    "tokenizers": "transformers",
    "urllib3": "botocore",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def sources(*tops: str) -> tuple[tuple[str, ast.Module], ...]:
    """Every module below the folders ``tops``, by its path, parsed."""
    paths = sorted(path for top in tops for path in (ROOT / top).rglob("*.py"))
    return tuple((str(path.relative_to(ROOT)), parsed(path)) for path in paths)


@cache
def parsed(path: Path) -> ast.Module:
    """The module in that file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(*tops: str) -> Iterator[tuple[str, Function]]:
    """Every function below the folders ``tops``, methods and inner ones included, with where it stands."""
    for path, tree in sources(*tops):
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield f"{path}:{node.lineno} {node.name}", node


def classes(*tops: str) -> Iterator[tuple[str, ast.ClassDef]]:
    """Every class below the folders ``tops``, with where it stands."""
    for path, tree in sources(*tops):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                yield f"{path}:{node.lineno} {node.name}", node


def calls(*tops: str) -> Iterator[tuple[str, ast.Call, str]]:
    """Every call below the folders ``tops``: where, the call, and what is called, written with its dots."""
    for path, tree in sources(*tops):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield f"{path}:{node.lineno}", node, ast.unparse(node.func)


def imported(tree: ast.Module) -> Iterator[str]:
    """The top-level names of what a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module.split(".")[0]


def words(name: str) -> set[str]:
    """The words of a CamelCase name."""
    return set(re.findall(r"[A-Z][a-z0-9]*", name))


def line_count(path: str) -> int:
    """Lines of a file."""
    return len((ROOT / path).read_text(encoding="utf-8").splitlines())


def length(function: Function) -> int:
    """Lines of a function, decorators left out."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def parameter_count(function: Function) -> int:
    """Parameters, without the one that a method gets from its object."""
    arguments = function.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


# Sizes and names


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {path: line_count(path) for path, _ in sources(*PACKAGES, "tests")}

    assert {path: lines for path, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


def test_half_of_the_files_have_at_most_130_lines() -> None:
    assert statistics.median(line_count(path) for path, _ in sources(*PACKAGES)) <= MEDIAN_FILE_LINES


def test_no_function_is_longer_than_60_lines() -> None:
    assert [where for where, each in functions(*PACKAGES, "tests") if length(each) > MAX_FUNCTION_LINES] == []


def test_half_of_the_functions_have_at_most_10_lines() -> None:
    assert statistics.median(length(each) for _, each in functions(*PACKAGES)) <= MEDIAN_FUNCTION_LINES


def test_no_function_takes_more_than_six_parameters() -> None:
    assert [where for where, each in functions(*PACKAGES) if parameter_count(each) > MAX_PARAMETERS] == []


def test_no_class_name_holds_a_banned_stem() -> None:
    assert [where for where, each in classes(*PACKAGES) if words(each.name) & BANNED_STEMS] == []


def test_no_class_is_named_by_a_word_that_the_glossary_replaces() -> None:
    named = [
        (where, words(each.name) - (GRPC_WORDS if "/adapters/" in where else set()))
        for where, each in classes(*PACKAGES)
    ]

    assert [where for where, said in named if any(map(BANNED_WORDS.fullmatch, said))] == []


def test_no_function_or_module_name_says_only_that_something_is_done() -> None:
    banned = re.compile(r"^_*(do|process)_|(^|_)(manager|handler|processor|helpers?|utils?)(_|$)")
    modules = [path for path, _ in sources(*PACKAGES, "tests") if banned.search(Path(path).stem)]
    named = [(where, each.name) for where, each in functions(*PACKAGES) if each.name not in NOUNS]

    assert modules + [where for where, name in named if banned.search(name)] == []


# No code crosses (law 12); text stays home (law 11)


def test_nothing_reads_a_format_that_can_hold_code() -> None:
    imports = [path for path, tree in sources(*PACKAGES) if CODE_FROM_FILES & set(imported(tree))]
    loads = [where for where, _, name in calls(*PACKAGES) if name in {"torch.load", "eval", "exec", "yaml.load"}]

    assert imports + loads == []


@pytest.mark.parametrize("permission", ["trust_remote_code", "allow_pickle"])
def test_nothing_gives_permission_to_run_code_from_a_model_or_file(permission: str) -> None:
    given = [
        where
        for where, call, _ in calls(*PACKAGES)
        for keyword in call.keywords
        if keyword.arg == permission and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
    ]

    assert given == []


def test_only_demo_benchmarks_and_command_lines_print() -> None:
    prints = {where.split(":")[0] for where, _, name in calls(*SERVICES) if name == "print"}
    command_lines = {
        path for path, tree in sources(*SERVICES) if any("__main__" in ast.unparse(node) for node in tree.body)
    }

    assert {path for path in prints - command_lines if not Path(path).name.startswith("cli")} == set()


# What happens can be played again: a simulation stands in for the clock, the event loop, chance and the system's calls


def test_domain_and_use_cases_ask_for_no_time_chance_or_thread_but_through_ports_and_the_event_loop() -> None:
    inner = [f"{service}/{layer}" for service in ("coordinator", "site_agent") for layer in ("app", "domain")]
    imports = [path for path, tree in sources(*inner) if UNREPEATABLE & set(imported(tree))]
    asked = [where for where, _, name in calls(*inner) if re.search(r"\bdate(time)?\.(now|utcnow|today)$", name)]

    assert imports + asked == []


# What is installed, and what is loaded


def declared(*extras: str) -> set[str]:
    """Names of the distributions that the project, and some of its extras, ask for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = sum((project["optional-dependencies"][extra] for extra in extras), project["dependencies"])
    return {re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-") for requirement in requirements}


def undeclared_imports(top: str, *extras: str) -> list[str]:
    """Third-party imports of ``top`` that no declared dependency brings."""
    known = {*PACKAGES, "fedmedlora", *sys.stdlib_module_names}
    brought_by = packages_distributions()
    wanted = {name for _, tree in sources(top) for name in imported(tree)} - known
    available = declared(*extras)

    def is_declared(name: str) -> bool:
        return bool({each.lower().replace("_", "-") for each in (name, *brought_by.get(name, ()))} & available)

    return sorted(name for name in wanted if not is_declared(PART_OF.get(name, name)))


@pytest.mark.parametrize("names", ["common", "coordinator coordinator s3", "site_agent site data"])
def test_everything_that_is_imported_is_a_declared_dependency(names: str) -> None:
    top, *extras = names.split()
    assert undeclared_imports(top, *extras) == []


def test_a_coordinator_is_installed_without_any_training_library() -> None:
    assert declared("coordinator") & TRAINING_LIBRARIES == set()


def loaded_by(*modules: str) -> set[str]:
    """Top-level names of everything that a fresh process has loaded after importing ``modules``."""
    program = f"import sys, {', '.join(modules)}; print(*{{name.split('.')[0] for name in sys.modules}})"
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_the_coordinator_process_loads_no_training_library_and_nothing_of_a_site() -> None:
    loaded = loaded_by("coordinator.cli", "coordinator.wiring")

    assert "grpc" in loaded
    assert loaded & {*TRAINING_LIBRARIES, "site_agent"} == set()
    assert loaded & {"botocore", "psycopg"} == set(), (
        "what an extra brings is loaded when the configuration asks for it"
    )


def test_the_agent_process_loads_no_training_library_and_nothing_of_the_coordinator() -> None:
    loaded = loaded_by("site_agent.cli", "site_agent.wiring")

    assert "grpc" in loaded
    assert loaded & {*TRAINING_LIBRARIES, "coordinator"} == set()


# The wire


def descriptors() -> Iterator[FileDescriptor]:
    """The compiled form of every proto file."""
    for path in PROTOS:
        yield import_module(f"fedmedlora.v1.{path.stem}_pb2").DESCRIPTOR


def rpcs() -> set[str]:
    """Every rpc as gRPC names it on the wire."""
    services = [service for file in descriptors() for service in file.services_by_name.values()]
    return {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}


def callers_in_comments() -> dict[str, set[str]]:
    """Who may call each rpc, as the proto files tell it to people."""
    callers = {}
    for path in PROTOS:
        service = ""
        comment = ""
        for line in path.read_text(encoding="utf-8").splitlines():
            if match := re.match(r"service (\w+)", line):
                service = match[1]
            elif match := re.match(r"\s*rpc (\w+)", line):
                roles = re.search(r"Callers: ([a-z, ]+)\.", comment)
                assert roles is not None, f"{service}.{match[1]} does not say who may call it"
                callers[f"/fedmedlora.v1.{service}/{match[1]}"] = set(roles[1].split(", "))
            comment = comment + line if line.strip().startswith("//") else ""
    return callers


def test_every_rpc_has_a_row_that_says_who_may_call_it_and_no_row_is_left_over() -> None:
    assert {rpc for rpc in ROLES_BY_RPC if not rpc.startswith("/grpc.health.")} | RPCS_BY_JOIN_TOKEN == rpcs()
    assert not RPCS_BY_JOIN_TOKEN & ROLES_BY_RPC.keys()


def test_the_comments_of_the_rpcs_name_the_callers_that_are_let_in() -> None:
    table = {rpc: {str(role) for role in roles} for rpc, roles in ROLES_BY_RPC.items()}
    table |= {rpc: {"whoever holds a join token"} for rpc in RPCS_BY_JOIN_TOKEN}

    assert callers_in_comments() == {rpc: table[rpc] for rpc in rpcs()}


def test_the_reasons_of_the_code_are_those_of_the_wire() -> None:
    on_the_wire = {name.removeprefix("REASON_") for name in errors_pb2.Reason.DESCRIPTOR.values_by_name}

    assert on_the_wire - {"UNSPECIFIED"} == {reason.value for reason in Reason}


def test_every_enum_of_the_wire_begins_with_a_value_that_is_never_sent() -> None:
    enums = [enum for file in descriptors() for enum in file.enum_types_by_name.values()]

    assert enums
    assert [enum.name for enum in enums if not enum.values_by_number[0].name.endswith("_UNSPECIFIED")] == []


def test_no_message_has_a_map_and_none_names_its_sender() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in PROTOS)

    assert re.findall(r"map<.*|string (?:sender|client_id|site_id)\b.*", text) == []


# The tests themselves


def test_every_skipped_or_expected_failure_says_why() -> None:
    silent = [
        where
        for where, call, name in calls("tests")
        if re.fullmatch(r"pytest\.(skip|xfail|importorskip|mark\.(skip|skipif|xfail))", name)
        and not any(keyword.arg == "reason" for keyword in call.keywords)
        and not (name in {"pytest.skip", "pytest.xfail"} and call.args)
    ]
    bare = [
        where
        for where, each in (*functions("tests"), *classes("tests"))
        for decorator in each.decorator_list
        if ast.unparse(decorator) in {"pytest.mark.skip", "pytest.mark.xfail"}
    ]

    assert silent + bare == []


def test_tests_use_real_parts_and_fakes_instead_of_mocks() -> None:
    mocks = {"mock", "unittest", "pytest_mock"}

    assert [path for path, tree in sources("tests") if mocks & set(imported(tree))] == []


def test_no_test_waits_for_time_to_pass() -> None:
    # What starts real processes for them may ask again and again whether one is ready.
    waits = [where for where, _, name in calls("tests") if name == "time.sleep"]

    assert [where for where in waits if Path(where).name.startswith("test_")] == []


def test_file_names_of_tests_are_unique() -> None:
    # pytest imports test files by their bare name.
    names = Counter(Path(path).name for path, _ in sources("tests") if Path(path).name.startswith("test_"))

    assert [name for name, count in names.items() if count > 1] == []
