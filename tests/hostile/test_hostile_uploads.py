"""Uploads of a member who breaks the rules: order, offsets, sizes, silence, header bombs, what was sent before."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest

from tests.hostile.scene import (  # isort: skip  (hardens TLS first)
    ATTACKERS,
    CALL_SECONDS,
    HONEST,
    UPLOAD,
    Scene,
    honest_round,
    refusal_of,
    trained_header,
)

from common.chunk_messages import encode_chunk
from common.chunks import MAX_CHUNK_BYTES
from common.ids import digest_of
from common.tls import Role
from common.weights_layout import MAX_HEADER_BYTES
from fedmedlora.v1 import rounds_pb2, rounds_pb2_grpc
from tests.fakes.coordinator_updates import random_weights, raw_tensors, safetensors_bytes
from tests.running import wait_until

ATTACKER, OTHER = ATTACKERS


def refused(scene: Scene, *chunks: bytes, content: bytes | None = None, size_bytes: int | None = None) -> str:
    """What an upload that begins with a good header and goes on with ``chunks`` is refused with."""
    content = scene.update(seed=2) if content is None else content
    with honest_round(scene) as assignments:
        header = trained_header(assignments[ATTACKER], content, size_bytes)
        return scene.refusal(ATTACKER, iter([header, *chunks]))


def test_chunks_in_the_wrong_order_are_refused(guarded: Scene) -> None:
    content = guarded.update(seed=2)
    half = len(content) // 2
    assert refused(guarded, encode_chunk(half, content[half:])) == "OFFSET_DIFFERS"


def test_chunks_that_overlap_are_refused(guarded: Scene) -> None:
    content = guarded.update(seed=2)
    half = len(content) // 2
    chunks = encode_chunk(0, content[:half]), encode_chunk(half - 1, content[half - 1 :])
    assert refused(guarded, *chunks) == "OFFSET_DIFFERS"


def test_an_offset_at_the_end_of_numbers_is_refused(guarded: Scene) -> None:
    assert refused(guarded, encode_chunk(2**64 - 1, b"x")) == "OFFSET_DIFFERS"


def test_more_bytes_than_announced_are_refused(guarded: Scene) -> None:
    content = guarded.update(seed=2)
    reason = refused(guarded, encode_chunk(0, content), encode_chunk(len(content), b"more"))
    assert reason == "UPDATE_TOO_LARGE"


@pytest.mark.parametrize("size_bytes", [2**40, 2**64 - 1])
def test_a_size_beyond_the_specification_is_refused_before_a_byte_is_kept(guarded: Scene, size_bytes: int) -> None:
    assert refused(guarded, size_bytes=size_bytes) == "UPDATE_TOO_LARGE"


def test_a_second_header_is_refused(guarded: Scene) -> None:
    with honest_round(guarded) as assignments:
        header = trained_header(assignments[ATTACKER], guarded.update(seed=2))
        assert guarded.refusal(ATTACKER, iter([header, header])) == "CHUNK_EXPECTED"


def test_a_chunk_as_large_as_a_message_may_be_is_refused(guarded: Scene) -> None:
    assert refused(guarded, encode_chunk(0, bytes(MAX_CHUNK_BYTES + 1))) == "CHUNK_TOO_LARGE"


def test_an_upload_that_says_nothing_more_is_let_go(guarded: Scene) -> None:
    with honest_round(guarded) as assignments:
        header = trained_header(assignments[ATTACKER], guarded.update(seed=2))

        told = threading.Event()

        def silent() -> Iterator[bytes]:
            yield header
            told.wait(CALL_SECONDS)

        assert guarded.refusal(ATTACKER, silent()) == "STREAM_TOO_SLOW"
        told.set()


def test_an_endless_stream_of_empty_messages_is_refused_at_the_first(guarded: Scene) -> None:
    with honest_round(guarded) as assignments:
        header = trained_header(assignments[ATTACKER], guarded.update(seed=2))

        def endless() -> Iterator[bytes]:
            yield header
            while True:
                yield b""

        assert guarded.refusal(ATTACKER, endless()) == "CHUNK_EXPECTED"


def test_an_endless_stream_of_empty_chunks_is_refused(guarded: Scene) -> None:
    empty = rounds_pb2.UploadUpdateRequest()
    empty.chunk.SetInParent()
    with honest_round(guarded) as assignments:
        header = trained_header(assignments[ATTACKER], guarded.update(seed=2))

        def endless() -> Iterator[bytes]:
            yield header
            while True:
                yield empty.SerializeToString()

        reason = guarded.refusal(ATTACKER, endless())
    assert reason == "FIELD_INVALID"


# Files that are no adapters


def bomb(header: bytes, length: int | None = None) -> bytes:
    """A safetensors file that is all header; ``length`` is what it says of itself."""
    return (len(header) if length is None else length).to_bytes(8, "little") + header


def sent(scene: Scene, content: bytes) -> str:
    """What the file ``content`` is refused with, padded to what the specification has room for."""
    return refused(scene, encode_chunk(0, content), content=content)


@pytest.mark.parametrize("length", [2**30, 2**63, 2**64 - 1])
def test_a_header_that_claims_a_gigabyte_is_refused_unread(guarded: Scene, length: int) -> None:
    assert sent(guarded, bomb(b"{" + bytes(100), length)) == "UPDATE_HEADER_TOO_LARGE"


def test_a_header_one_byte_over_the_bound_is_refused(guarded: Scene) -> None:
    assert sent(guarded, bomb(b"{}", MAX_HEADER_BYTES + 1)) == "UPDATE_HEADER_TOO_LARGE"


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":' * 30_000,
        b"[" * 60_000,
        b'{"a":1e400}',
        b'{"a":' + b"9" * 50_000 + b"}",
        b'{"\\ud800":{}}',
        b"\xff" * 99,
    ],
    ids=["nested objects", "nested lists", "infinity", "a number without end", "half a surrogate pair", "no UTF-8"],
)
def test_a_header_made_to_break_a_parser_is_refused(guarded: Scene, header: bytes) -> None:
    reason = sent(guarded, bomb(header))
    assert reason in {"UPDATE_NOT_SAFETENSORS", "UPDATE_HEADER_TOO_LARGE"}


@pytest.mark.parametrize(
    "offsets",
    [[0, 2**62], [-8, 0], [4, 2], [0, 0], [2**63, 2**63 + 8]],
    ids=["beyond the file", "before the file", "backwards", "nothing", "beyond numbers"],
)
def test_tensors_that_lie_elsewhere_are_refused(guarded: Scene, offsets: list[int]) -> None:
    name = guarded.spec.names[0]
    header = json.dumps({name: {"dtype": "BF16", "shape": [2, 2], "data_offsets": offsets}}).encode()
    reason = sent(guarded, bomb(header) + bytes(8))
    assert reason.startswith("UPDATE_")


def test_tensors_with_the_names_of_files_are_refused(guarded: Scene) -> None:
    weights = random_weights(guarded.spec, seed=3)
    renamed = {f"../../../../tmp/{index}": values for index, values in enumerate(weights.values())}
    assert sent(guarded, safetensors_bytes(raw_tensors(renamed))) == "UPDATE_TENSORS_DIFFER"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_no_number_is_refused(guarded: Scene, value: float) -> None:
    weights = random_weights(guarded.spec, seed=3)
    weights[guarded.spec.names[-1]][-1, -1] = value
    assert sent(guarded, safetensors_bytes(raw_tensors(weights))) == "UPDATE_NOT_FINITE"


def test_a_pickle_is_refused(guarded: Scene) -> None:
    reason = sent(guarded, b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.")
    assert reason in {"UPDATE_NOT_SAFETENSORS", "UPDATE_HEADER_TOO_LARGE"}


# What was sent before, or by another


def test_an_accepted_update_sent_again_gets_the_same_answer_and_counts_once(guarded: Scene) -> None:
    content = guarded.update(seed=4)
    with honest_round(guarded) as assignments:
        answers = {guarded.upload(ATTACKER, assignments[ATTACKER], content) for _ in range(3)}
    assert answers == {digest_of(content)}


def test_a_second_update_after_the_first_was_accepted_is_refused(guarded: Scene) -> None:
    with honest_round(guarded) as assignments:
        guarded.upload(ATTACKER, assignments[ATTACKER], guarded.update(seed=4))
        other = guarded.update(seed=5)
        parts = iter([trained_header(assignments[ATTACKER], other), encode_chunk(0, other)])
        assert guarded.refusal(ATTACKER, parts) == "ALREADY_ANSWERED"


def test_an_update_of_an_earlier_run_is_refused(guarded: Scene) -> None:
    content = guarded.update(seed=4)
    with honest_round(guarded) as assignments:
        stale = trained_header(assignments[ATTACKER], content)
    assert guarded.refusal(ATTACKER, iter([stale, encode_chunk(0, content)])) == "RUN_ENDED"


def test_an_update_trained_from_another_adapter_is_refused(guarded: Scene) -> None:
    content = guarded.update(seed=4)
    with honest_round(guarded) as assignments:
        assignments[ATTACKER].train.global_adapter.digest = digest_of(b"another")
        parts = iter([trained_header(assignments[ATTACKER], content), encode_chunk(0, content)])
        assert guarded.refusal(ATTACKER, parts) == "UPDATE_BASE_DIFFERS"


def test_another_sites_assignment_is_refused(guarded: Scene) -> None:
    content = guarded.update(seed=4)
    with honest_round(guarded) as assignments:
        parts = iter([trained_header(assignments[HONEST], content), encode_chunk(0, content)])
        assert guarded.refusal(ATTACKER, parts) == "ASSIGNMENT_NOT_YOURS"


def test_another_sites_update_cannot_be_fetched(guarded: Scene) -> None:
    content = guarded.update(seed=4)
    with honest_round(guarded) as assignments, guarded.rounds(OTHER) as stub:
        guarded.upload(ATTACKER, assignments[ATTACKER], content)
        request = rounds_pb2.DownloadAdapterRequest(digest=digest_of(content))
        assert refusal_of(lambda: list(stub.DownloadAdapter(request, timeout=10))) == "ADAPTER_UNKNOWN"


@pytest.mark.parametrize("count", [0, -1, 2**63 - 1])
def test_a_count_that_would_take_over_the_aggregate_is_refused(guarded: Scene, count: int) -> None:
    content = guarded.update(seed=4)
    with honest_round(guarded) as assignments:
        message = rounds_pb2.UploadUpdateRequest.FromString(trained_header(assignments[ATTACKER], content))
        message.header.trained.num_label_tokens = count
        parts = iter([message.SerializeToString(), encode_chunk(0, content)])
        assert guarded.refusal(ATTACKER, parts) == "UPDATE_COUNT_ABSURD"


def test_two_uploads_of_one_assignment_at_once_are_one_too_many(guarded: Scene) -> None:
    content = guarded.update(seed=4)
    with honest_round(guarded) as assignments, guarded.channel(ATTACKER, Role.SITE) as channel:
        header, half = trained_header(assignments[ATTACKER], content), len(content) // 2
        another_was_refused = threading.Event()

        def slow() -> Iterator[bytes]:
            yield header
            yield encode_chunk(0, content[:half])
            another_was_refused.wait(CALL_SECONDS)
            yield encode_chunk(half, content[half:])

        first = channel.stream_unary(UPLOAD).future(slow(), timeout=CALL_SECONDS)
        request = rounds_pb2.GetUploadOffsetRequest(
            assignment_id=assignments[ATTACKER].assignment_id, digest=digest_of(content)
        )
        stub = rounds_pb2_grpc.RoundServiceStub(channel)
        wait_until(lambda: stub.GetUploadOffset(request, timeout=CALL_SECONDS).offset > 0, CALL_SECONDS)
        second = guarded.refusal(ATTACKER, iter([header, encode_chunk(0, content)]))
        another_was_refused.set()
        assert second == "TOO_MANY_STREAMS"
        assert rounds_pb2.UploadUpdateResponse.FromString(first.result()).digest == digest_of(content)
