"""The gauge of the certificates' expiry."""

import math
from pathlib import Path

from coordinator.config.settings import Settings
from coordinator.observability.certificates import seconds_left
from tests.support.identities import Tls


def test_the_first_certificate_of_a_file_that_expires_counts(tmp_path: Path) -> None:
    authority = Tls(tmp_path).authority
    early, late = authority.issue("tcc.test", valid_days=2), authority.issue("tcc.test", valid_days=3)
    file = tmp_path / "chain"
    file.write_bytes(late.certificate_pem + early.certificate_pem)
    expires_at = early.certificate.not_valid_after_utc.timestamp()
    assert seconds_left(file, expires_at - 60) == 60
    assert seconds_left(file, expires_at + 60) == -60


def test_a_file_that_cannot_be_read_is_not_a_number(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("no certificate")
    assert math.isnan(seconds_left(tmp_path / "key", 0))
    assert math.isnan(seconds_left(tmp_path / "none", 0))


def test_every_certificate_of_the_configuration_is_shown_once(tmp_path: Path) -> None:
    tls = Tls(tmp_path)
    ours = tls.settings(certificates=False)
    settings = Settings.model_validate(
        {
            "listen": {"tls": tls.settings()},
            "admin": {"tls": ours},
            "participants": {
                "stock": {"target": "stock:1", "tls": {"ca_file": str(tmp_path / "ca.crt")}},
                "plain": {"target": "plain:1"},
            },
        }
    )
    assert settings.certificate_files() == [tmp_path / "ca.crt", tmp_path / "tls.crt"]
