"""Signed manifests, verified by the reader of c2pa-python; and credentials that cannot sign."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import PrivateFormat
from PIL import Image

from service.app import create_app
from service.lifecycle import CannotStart
from service.media.c2pa_signer import C2paSigner, read_signer
from service.media.images import OutputFormat, encode_image
from service.media.provenance import DIGITAL_SOURCE_TYPE
from service.settings import Settings
from tests.support.certificates import Credentials, credentials
from tests.support.generations import draw, events_of, file_of, images_of
from tests.support.pictures import gradient
from tests.support.process import ROOT
from tests.support.server import ready_server
from tests.support.tiny import tiny_generator

pytestmark = pytest.mark.slow
GOOD = credentials()


def verified(file: bytes, format: str, root: bytes = GOOD.root) -> dict[str, Any]:
    """What the package's own reader, which trusts this root alone, makes of a file."""
    settings = c2pa.Settings.from_dict(
        {"verify": {"verify_trust": True}, "trust": {"trust_anchors": root.decode()}}
    )
    with (
        c2pa.Context(settings) as context,
        c2pa.Reader(f"image/{format}", io.BytesIO(file), context=context) as reader,
    ):
        found: dict[str, Any] = json.loads(reader.json())
    return found


def is_trusted(file: bytes, format: str, root: bytes = GOOD.root) -> bool:
    return bool(verified(file, format, root)["validation_state"] == "Trusted")


@pytest.mark.parametrize("format", list(OutputFormat))
def test_each_format_is_signed_and_its_pixels_and_its_xmp_stay(format: OutputFormat) -> None:
    signer = C2paSigner(GOOD.chain, GOOD.key)
    plain = encode_image(np.array(gradient()), format, compression=None, xmp=b"<x/>")
    signed = signer.sign(plain, format)
    found = verified(signed, format.value)
    assert found["validation_state"] == "Trusted"
    manifest = found["manifests"][found["active_manifest"]]
    (action,) = manifest["assertions"][0]["data"]["actions"]
    assert (action["action"], action["digitalSourceType"]) == ("c2pa.created", DIGITAL_SOURCE_TYPE)
    assert manifest["claim_generator_info"][0]["name"] == "Atelier"
    assert not is_trusted(signed, format.value, credentials().root)
    with Image.open(io.BytesIO(plain)) as one, Image.open(io.BytesIO(signed)) as other:
        assert one.tobytes() == other.tobytes()
    assert b"<x/>" in signed
    assert verified(signed.replace(b"<x/>", b"<y/>"), format.value)["validation_state"] == "Invalid"


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=lambda key: type(key).__name__,
)
def test_the_algorithm_is_that_of_the_key(key: Any) -> None:
    made = credentials(key)
    file = encode_image(np.array(gradient()), OutputFormat.PNG, compression=None)
    assert is_trusted(C2paSigner(made.chain, made.key).sign(file, OutputFormat.PNG), "png", made.root)


def test_a_key_as_openssl_writes_it_is_read() -> None:
    made = credentials(form=PrivateFormat.TraditionalOpenSSL)
    assert made.key.startswith(b"-----BEGIN EC PRIVATE KEY")
    C2paSigner(made.chain, made.key)


def test_several_threads_may_sign() -> None:
    signer = C2paSigner(GOOD.chain, GOOD.key)
    file = encode_image(np.array(gradient()), OutputFormat.JPEG, compression=None)
    with ThreadPoolExecutor(4) as threads:
        signed = list(threads.map(lambda _: signer.sign(file, OutputFormat.JPEG), range(40)))
    assert all(is_trusted(one, "jpeg") for one in signed)


BAD = {
    "the key of another certificate": (Credentials(GOOD.chain, credentials().key, b""), "is invalid"),
    "no key": (Credentials(GOOD.chain, b"x", b""), "the key is no private key in PEM"),
    "no certificate": (Credentials(b"x", GOOD.key, b""), "does not contain signing certificate"),
    "the root alone": (Credentials(GOOD.root, GOOD.key, b""), "certificate was self-signed"),
    "a certificate that has expired": (credentials(days=1), "was not valid at time of signing"),
    "a curve that C2PA does not have": (credentials(ec.generate_private_key(ec.SECP256K1())), "no algorithm"),
    "a kind of key that C2PA does not have": (
        credentials(dsa.generate_private_key(2048)),
        "no algorithm for this kind of key",
    ),
}


@pytest.mark.parametrize(("bad", "reason"), BAD.values(), ids=BAD)
def test_credentials_that_cannot_sign_stop_the_start_with_a_sentence(
    tmp_path: Path, bad: Credentials, reason: str
) -> None:
    settings = Settings(data_dir=tmp_path, **bad.save(tmp_path))  # type: ignore[arg-type]
    with pytest.raises(CannotStart, match=reason) as refused:
        create_app(settings)
    assert str(refused.value).startswith(f"Images cannot be signed with ATELIER_C2PA_CERT={tmp_path}")


def test_half_of_the_settings_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="belong together"):
        read_signer(Settings(c2pa_cert=tmp_path / "chain.pem"))
    with pytest.raises(ValueError, match=r"chain\.pem cannot be read \(No such file or directory\)"):
        read_signer(Settings(c2pa_cert=tmp_path / "chain.pem", c2pa_key=tmp_path / "key.pem"))
    assert read_signer(Settings()) is None


def test_without_the_package_the_start_says_how_to_install_it(tmp_path: Path) -> None:
    paths = GOOD.save(tmp_path)
    script = (
        "import sys; sys.modules['c2pa'] = None\n"  # as where it is not installed
        "from service.media.c2pa_signer import read_signer; from service.settings import Settings\n"
        "read_signer(Settings(c2pa_cert=sys.argv[1], c2pa_key=sys.argv[2]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, *paths.values()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "needs c2pa-python: pip install 'atelier-style[c2pa]'" in run.stderr


def test_a_service_signs_images_and_previews(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"metadata": "full", **GOOD.save(tmp_path)}
    with ready_server(tmp_path / "data", tiny_generator(), **settings) as (_, client):
        for format in ("png", "jpeg", "webp"):
            events = events_of(client, seed=1, output_format=format, partial_images=1)
            (drawn,) = images_of(draw(client, output_format=format))
            files = [*map(file_of, events), drawn]
            assert [is_trusted(file, format) for file in files] == [True] * 3
            with Image.open(io.BytesIO(files[1])) as one, Image.open(io.BytesIO(drawn)) as other:
                assert one.tobytes() == other.tobytes()
            assert b"AIPromptInformation" in drawn
