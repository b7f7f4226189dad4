"""The gauge of the certificates' expiry."""

import math
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from coordinator.config.settings import Settings
from coordinator.observability.certificates import validity
from tests.support.identities import Tls
from tests.support.worker import running, settings_for

DAY_S = 24 * 3600


def test_the_first_certificate_of_a_file_that_expires_counts(tmp_path: Path) -> None:
    authority = Tls(tmp_path).authority
    early, late = authority.issue("tcc.test", valid_days=2), authority.issue("tcc.test", valid_days=3)
    file = tmp_path / "chain"
    file.write_bytes(late.certificate_pem + early.certificate_pem)
    expires_at = early.certificate.not_valid_after_utc.timestamp()
    assert validity(file, expires_at - 60) == (60, 2 * DAY_S)
    assert validity(file, expires_at + 60) == (-60, 2 * DAY_S)


def test_a_file_that_cannot_be_read_is_not_a_number(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("no certificate")
    for name in ("key", "none"):
        assert all(map(math.isnan, validity(tmp_path / name, 0)))


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


async def test_the_gauge_follows_a_reload_and_a_rotation(log_url: str, tmp_path: Path) -> None:
    authority = Tls(tmp_path).authority
    for name, days in (("old", 2), ("new", 3)):
        (tmp_path / name).write_bytes(authority.issue("stock", valid_days=days).certificate_pem)

    def settings(name: str) -> Settings:
        return settings_for({"stock": {"target": "stock:1", "tls": {"ca_file": str(tmp_path / name)}}})

    async with running(settings("old"), log_url) as coordinator:

        def lifetimes() -> dict[str, float]:
            text = coordinator.worker.monitoring.metrics.text().decode()
            return {
                Path(sample.labels["file"]).name: sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.name == "tcc_certificate_lifetime_seconds"
            }

        assert lifetimes() == {"old": 2 * DAY_S}
        coordinator.worker.reload(settings("new"), settings("old"))
        assert lifetimes() == {"new": 3 * DAY_S}
        (tmp_path / "new").write_bytes(authority.issue("stock", valid_days=4).certificate_pem)
        assert lifetimes() == {"new": 4 * DAY_S}
