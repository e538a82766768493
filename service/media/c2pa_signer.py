"""C2paSigner: adds a signed C2PA manifest to image files, with the package `c2pa-python`.

The manifest says that a trained model made the image, and with which program; its signature covers the whole
file, XMP and all.
"""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from service import __version__
from service.media.images import OutputFormat
from service.media.png_encoder import encode_png
from service.media.provenance import DIGITAL_SOURCE_TYPE
from service.settings import Settings

if TYPE_CHECKING:
    from c2pa import C2paSigningAlg

MANIFEST: dict[str, Any] = {
    "claim_generator_info": [{"name": "Atelier", "version": __version__}],
    "assertions": [
        {
            "label": "c2pa.actions.v2",
            "data": {
                "actions": [
                    {
                        "action": "c2pa.created",
                        "digitalSourceType": DIGITAL_SOURCE_TYPE,
                        "softwareAgent": {"name": "Atelier", "version": __version__},
                    }
                ]
            },
        }
    ],
}
# A thumbnail would have the size of the image; that signatures are valid is checked once, at the start.
OPTIONS = {"builder": {"thumbnail": {"enabled": False}}, "verify": {"verify_after_sign": False}}
UNTRUSTED = "signingCredential.untrusted"  # who trusts a certificate is the reader's business


class C2paSigner:
    """`certificates` is the signing certificate and those up to its root, in PEM; `key` its private key.

    ValueError says why they cannot sign: an example is signed and verified.
    """

    def __init__(self, certificates: bytes, key: bytes) -> None:
        import c2pa

        algorithm, key = _normalised(key)
        self._builder = c2pa.Builder
        self._context = c2pa.Context.from_dict(OPTIONS)
        self._lock = threading.Lock()  # the library does not say that several threads may sign
        try:
            info = c2pa.C2paSignerInfo(alg=algorithm, sign_cert=certificates, private_key=key, ta_url=None)
            self._signer = c2pa.Signer.from_info(info)
            example = self.sign(encode_png(np.zeros((1, 1, 3), np.uint8)), OutputFormat.PNG)
            with c2pa.Reader("image/png", io.BytesIO(example)) as reader:
                found = json.loads(reader.json())
        except c2pa.C2paError as error:
            raise ValueError(str(error)) from error
        if found["validation_state"] not in ("Valid", "Trusted"):
            codes = {status["code"] for status in found.get("validation_status", ())} - {UNTRUSTED}
            raise ValueError(f"what they sign is invalid ({', '.join(sorted(codes))})")

    def sign(self, file: bytes, format: OutputFormat) -> bytes:
        """The file with a manifest; each call gives other bytes."""
        signed = io.BytesIO()
        with self._lock, self._builder(json.dumps(MANIFEST), self._context) as builder:
            builder.sign(self._signer, f"image/{format.value}", io.BytesIO(file), signed)
        return signed.getvalue()


def read_signer(settings: Settings) -> C2paSigner | None:
    """The signer of the settings; None where they name no certificate. ValueError says what is wrong."""
    cert, key = settings.c2pa_cert, settings.c2pa_key
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise ValueError("ATELIER_C2PA_CERT and ATELIER_C2PA_KEY belong together: set both, or neither.")
    try:
        return C2paSigner(_read(cert), _read(key))
    except ImportError as error:
        raise ValueError("ATELIER_C2PA_CERT needs c2pa-python: pip install 'atelier-style[c2pa]'.") from error
    except ValueError as error:
        raise ValueError(
            f"Images cannot be signed with ATELIER_C2PA_CERT={cert} and ATELIER_C2PA_KEY={key}: {error}. The "
            "first is a chain of certificates in PEM that begins with the signing one, which must allow "
            "digital signatures and e-mail protection or document signing; the second is its private key in "
            "PEM, without a password."
        ) from error


def _read(path: Path) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from error


def _normalised(key: bytes) -> tuple[C2paSigningAlg, bytes]:
    """The algorithm of a private key, and the key in PKCS #8, the only form that the library reads."""
    from c2pa import C2paSigningAlg
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )

    curves = {
        "secp256r1": C2paSigningAlg.ES256,
        "secp384r1": C2paSigningAlg.ES384,
        "secp521r1": C2paSigningAlg.ES512,
    }
    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("the key is no private key in PEM without a password") from error
    encoded = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return C2paSigningAlg.ED25519, encoded
    if isinstance(private, rsa.RSAPrivateKey):
        return C2paSigningAlg.PS256, encoded
    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name in curves:
        return curves[private.curve.name], encoded
    raise ValueError("C2PA has no algorithm for this kind of key: use P-256, P-384, P-521, Ed25519 or RSA")
