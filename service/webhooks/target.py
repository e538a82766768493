"""WebhookTarget: where a webhook goes, and which addresses it may reach.

A URL that a client chose must not lead the service to what only the service can reach: the machine itself,
its network, a cloud's metadata. So a name is resolved once, each of its addresses is judged, and the
connection is made to an address that was judged.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import socket
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from service.errors import InvalidRequest
from service.settings import Settings

MAX_URL_CHARS = 2000
PREFIX = "whsec_"
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64  # as Standard Webhooks has them
# IPv4 addresses are reached through these, too, or were (RFC 6052, 8215, 4291).
_TRANSLATED = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"), IPv6Network("::/96"))


class AddressRefused(Exception):
    """Why no webhook goes to this address."""


@dataclass(frozen=True, slots=True)
class WebhookTarget:
    url: str
    secret: str  # signs the requests: whsec_ and base64
    traceparent: str = ""  # names the trace of the request that asked for it

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> WebhookTarget:
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class WebhookRules:
    """What the settings allow."""

    master_secret: bytes | None  # from which each API key's own is derived
    allows_http: bool
    networks: tuple[str, ...]  # that may be reached although they are private

    @classmethod
    def of(cls, settings: Settings) -> WebhookRules:
        secret = settings.webhook_secret
        networks = filter(None, settings.webhook_networks.replace(" ", "").split(","))
        return cls(
            None if secret is None else secret.get_secret_value().encode(),
            settings.webhook_http,
            tuple(networks),
        )

    def target(self, url: str, secret: str | None, owner: str) -> WebhookTarget:
        """InvalidRequest for a URL that is never called, and where there is nothing to sign with."""
        parts = self._checked(url)
        try:
            literal = ip_address(parts.hostname or "")
        except ValueError:
            pass  # a name, which is resolved when the webhook is sent
        else:
            if not self.allows(literal):
                raise _invalid(f"leads to {literal}, which is no public address")
        if secret is None:
            if self.master_secret is None:
                raise InvalidRequest(
                    "webhook.secret is missing, and this service has no ATELIER_WEBHOOK_SECRET: give "
                    "whsec_ and at least 24 random bytes in base64.",
                    param="webhook.secret",
                )
            secret = secret_of(self.master_secret, owner)
        _require_secret(secret)
        return WebhookTarget(url, secret)

    def allows(self, address: IPv4Address | IPv6Address) -> bool:
        """Whether it is a public address, or in one of the networks that are allowed."""
        reached = _reached(address)
        if any(_is_in(each, network) for each in {address, reached} for network in self.networks):
            return True
        return all(each.is_global and not each.is_multicast for each in {address, reached})

    async def resolve(self, url: str) -> tuple[SplitResult, str]:
        """The URL's parts, and the one address to connect to. AddressRefused unless all are allowed."""
        try:
            parts = self._checked(url)
        except InvalidRequest as error:
            raise AddressRefused(error.message) from error
        port = parts.port or (443 if parts.scheme == "https" else 80)
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        addresses = [str(sockaddr[0]) for *_, sockaddr in found]
        for address in addresses:
            if not self.allows(ip_address(address)):
                raise AddressRefused(f"{parts.hostname} is at {address}, which is no public address.")
        return parts, addresses[0]

    def _checked(self, url: str) -> SplitResult:
        try:
            parts = urlsplit(url)
            _ = parts.port  # a ValueError when it is none
        except ValueError:
            raise _invalid("cannot be read") from None
        if parts.scheme != "https" and not (parts.scheme == "http" and self.allows_http):
            raise _invalid("must begin with https://")
        if not parts.hostname or parts.username is not None or parts.password is not None or parts.fragment:
            raise _invalid("must have a host, and neither a user nor a fragment")
        if len(url) > MAX_URL_CHARS or not url.isascii() or not url.isprintable() or " " in url:
            raise _invalid(f"must be at most {MAX_URL_CHARS} characters of printable ASCII without blanks")
        return parts


def secret_of(master_secret: bytes, owner: str) -> str:
    """The secret that signs the webhooks of one API key; it tells nothing of another's."""
    derived = hmac.digest(master_secret, f"atelier webhooks of {owner}".encode(), "sha256")
    return PREFIX + base64.b64encode(derived).decode()


def _require_secret(secret: str) -> None:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except ValueError:
        key = b""
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise InvalidRequest(
            f"webhook.secret must be {PREFIX} and {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} random bytes in "
            "base64.",
            param="webhook.secret",
        )


def _reached(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 address stands for; else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    inside = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
    if inside is None and any(address in network for network in _TRANSLATED):
        inside = IPv4Address(int(address) & 0xFFFFFFFF)
    return inside or address


def _is_in(address: IPv4Address | IPv6Address, network: str) -> bool:
    return address in ip_network(network)  # False for one of the other version


def _invalid(what: str) -> InvalidRequest:
    return InvalidRequest(f"webhook.url {what}.", param="webhook.url")
