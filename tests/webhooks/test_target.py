"""Where a webhook may go: nowhere that only the service can reach."""

from __future__ import annotations

import base64
from ipaddress import ip_address

import pytest

from service.errors import InvalidRequest
from service.settings import Settings
from service.webhooks.target import AddressRefused, WebhookRules, secret_of

SECRET = "whsec_" + base64.b64encode(b"x" * 24).decode()
RULES = WebhookRules.of(Settings())
REFUSED = [
    "http://example.com/",
    "ftp://example.com/",
    "https://127.0.0.1/",
    "https://10.1.2.3/",
    "https://192.168.0.1:8443/x",
    "https://172.16.0.1/",
    "https://169.254.169.254/latest/meta-data/",
    "https://100.64.0.1/",
    "https://0.0.0.0/",
    "https://224.0.0.1/",
    "https://255.255.255.255/",
    "https://[::1]/",
    "https://[::]/",
    "https://[fe80::1]/",
    "https://[fd00::1]/",
    "https://[fd00:ec2::254]/",
    "https://[ff02::1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:169.254.169.254]/",
    "https://[::127.0.0.1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[2002:7f00:1::]/",
    "https://user:secret@example.com/",
    "https://example.com/#fragment",
    "https://exa mple.com/",
    "https://example.com:99999/",
    "https:///path",
    "https://[::1/",
    f"https://example.com/{'x' * 2000}",
]


@pytest.mark.parametrize("url", REFUSED)
def test_a_hostile_url_is_refused_before_a_job_is_made(url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        RULES.target(url, SECRET, "")
    assert refused.value.param == "webhook.url"


# Names, and numbers that are addresses in disguise, are judged when they are resolved.
@pytest.mark.parametrize("host", ["localhost", "2130706433", "0x7f.1", "127.1", "0177.0.0.1"])
async def test_a_name_of_a_private_address_is_refused_when_it_is_resolved(host: str) -> None:
    url = f"https://{host}/"
    assert RULES.target(url, SECRET, "").url == url
    with pytest.raises(AddressRefused, match="is no public address"):
        await RULES.resolve(url)


async def test_public_addresses_and_those_that_are_allowed_are_reached() -> None:
    for address in ("93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"):
        assert RULES.allows(ip_address(address))
    rules = WebhookRules.of(Settings(webhook_networks="10.1.0.0/16, ::1/128", webhook_http=True))
    assert rules.target("http://10.1.2.3:8080/hook?a=b", SECRET, "").secret == SECRET
    assert (await rules.resolve("http://10.1.2.3:8080/hook"))[1] == "10.1.2.3"
    for address in ("10.2.0.1", "127.0.0.1", "::ffff:127.0.0.1"):
        assert not rules.allows(ip_address(address))
    assert rules.allows(ip_address("::ffff:10.1.0.1"))


def test_each_key_has_a_secret_of_its_own_where_the_service_has_one() -> None:
    with pytest.raises(InvalidRequest, match="ATELIER_WEBHOOK_SECRET"):
        RULES.target("https://example.com/", None, "acme")
    rules = WebhookRules.of(Settings(webhook_secret="m" * 32))  # type: ignore[arg-type]
    acme, beta = [rules.target("https://example.com/", None, owner).secret for owner in ("acme", "beta")]
    assert acme == secret_of(b"m" * 32, "acme") != beta
    for secret in ("whsec_", "whsec_c2hvcnQ=", "no base64", f"whsec_{'A' * 120}"):
        with pytest.raises(InvalidRequest, match="24 to 64 random bytes"):
            rules.target("https://example.com/", secret, "acme")
