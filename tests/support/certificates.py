"""Certificates as C2PA wants them, of an authority of the test's own; and of a server."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True)
class Credentials:
    chain: bytes  # PEM, the signing certificate first
    key: bytes  # PEM
    root: bytes  # PEM

    def save(self, folder: Path) -> dict[str, Path]:
        """As settings."""
        paths = {"c2pa_cert": folder / "chain.pem", "c2pa_key": folder / "key.pem"}
        paths["c2pa_cert"].write_bytes(self.chain)
        paths["c2pa_key"].write_bytes(self.key)
        return paths


def credentials(key: Any = None, *, days: int = 30, form: PrivateFormat = PrivateFormat.PKCS8) -> Credentials:
    """Of a new authority; valid for so many days from two days ago."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    root_key = ec.generate_private_key(ec.SECP256R1())
    root = _certificate(root_key, "authority", root_key, days=30, is_authority=True)
    signing = _certificate(key, "signer", root_key, days=days)
    chain = signing.public_bytes(Encoding.PEM) + root.public_bytes(Encoding.PEM)
    return Credentials(
        chain, key.private_bytes(Encoding.PEM, form, NoEncryption()), root.public_bytes(Encoding.PEM)
    )


def self_signed(host: str, folder: Path) -> Path:
    """A PEM with the certificate of a server of this name, which is its own authority, and its key."""
    key, begin = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC) - timedelta(days=2)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_named(host))
        .issuer_name(_named(host))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{host}.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(certificate.public_bytes(Encoding.PEM) + private)
    return path


def _certificate(
    key: Any, name: str, issuer_key: Any, *, days: int, is_authority: bool = False
) -> x509.Certificate:
    begin = datetime.now(UTC) - timedelta(days=2)
    usages = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
         "decipher_only"),
        False,
    )  # fmt: skip
    usage = x509.KeyUsage(
        digital_signature=not is_authority, key_cert_sign=is_authority, crl_sign=is_authority, **usages
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(_named("authority"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
        .add_extension(usage, critical=True)
    )
    if not is_authority:
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purposes, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _named(name: str) -> x509.Name:
    organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Atelier's tests")
    return x509.Name([organisation, x509.NameAttribute(NameOID.COMMON_NAME, name)])
