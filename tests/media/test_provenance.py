"""What image files say of their origin, read by programs that are not ours."""

from __future__ import annotations

import io
import json
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service import __version__
from service.media.images import OutputFormat, encode_image
from service.media.provenance import DIGITAL_SOURCE_TYPE, MAX_PROMPT_CHARS, NAMESPACE, Provenance
from tests.support.pictures import gradient
from tests.support.tools import need

STYLES = ("sty_tj2iudqh46neny27w4v5hzllhw", "sty_3x2oyb6ngr5zx5ddvmtv2mkj4q")
IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
HOSTILE = '</rdf:RDF><?xpacket end="w"?>"\'&amp;<![CDATA[ "quoted" \'too\' \r\n\t\u2028 \U0001f98a'
FORMATS = list(OutputFormat)


def provenance(**fields: str) -> Provenance:
    of_prompts = {"prompt": "a fox", "negative_prompt": "snow"} | fields
    return Provenance("nano", "7a5caf9790f06194", 7, STYLES, **of_prompts)


def written(format: OutputFormat, xmp: bytes) -> bytes:
    return encode_image(np.array(gradient()), format, compression=None, xmp=xmp)


def packet_of(file: bytes) -> bytes | None:
    """As Pillow finds it."""
    with Image.open(io.BytesIO(file)) as image:
        found = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
        return found.encode() if isinstance(found, str) else found


def description_of(packet: bytes) -> dict[str, str]:
    """The attributes of the one description in a packet."""
    (description,) = ET.fromstring(packet).iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    return dict(description.attrib)


def as_exiftool_reads(file: bytes, format: OutputFormat, folder: Path) -> dict[str, object]:
    path = folder / f"image.{format.value}"
    path.write_bytes(file)
    command = [need("exiftool"), "-json", "-G1", "-n", "-struct", "-validate", "-warning", "-all", str(path)]
    tags: dict[str, object] = json.loads(subprocess.check_output(command))[0]
    return tags


@pytest.mark.parametrize("format", FORMATS)
def test_exiftool_reads_the_origin_from_each_format(format: OutputFormat, tmp_path: Path) -> None:
    tags = as_exiftool_reads(written(format, provenance().to_xmp("full")), format, tmp_path)
    assert "ExifTool:Warning" not in tags
    assert tags["XMP-iptcExt:DigitalSourceType"] == DIGITAL_SOURCE_TYPE
    assert tags["XMP-iptcExt:AISystemUsed"] == "nano"
    assert tags["XMP-iptcExt:AISystemVersionUsed"] == "7a5caf9790f06194"
    assert tags["XMP-iptcExt:AIPromptInformation"] == "a fox"
    assert tags["XMP-xmp:CreatorTool"] == f"Atelier {__version__}"
    assert tags["XMP-atelier:Seed"] == 7
    assert tags["XMP-atelier:Styles"] == list(STYLES)
    assert tags["XMP-atelier:NegativePrompt"] == "snow"


@pytest.mark.parametrize("format", FORMATS)
def test_pillow_finds_the_packet_and_the_pixels_are_the_same_without(format: OutputFormat) -> None:
    packet = provenance().to_xmp("minimal")
    with_packet, without = written(format, packet), written(format, b"")
    assert packet_of(with_packet) == packet
    assert packet_of(without) is None
    one, other = (np.asarray(Image.open(io.BytesIO(file))) for file in (with_packet, without))
    assert np.array_equal(one, other)
    assert written(format, provenance().to_xmp("minimal")) == with_packet


def test_the_prompt_is_written_with_full_alone_and_nothing_with_none() -> None:
    secret = provenance(prompt="a secret fox", negative_prompt="a secret")
    assert b"secret" not in secret.to_xmp("minimal")
    assert f"{IPTC}DigitalSourceType" in description_of(secret.to_xmp("minimal"))
    assert b"a secret fox" in secret.to_xmp("full")
    assert secret.to_xmp("none") == b""


@pytest.mark.parametrize("format", FORMATS)
def test_a_hostile_prompt_comes_back_as_it_was(format: OutputFormat, tmp_path: Path) -> None:
    file = written(format, provenance(prompt=HOSTILE, negative_prompt=HOSTILE).to_xmp("full"))
    packet = packet_of(file)
    assert packet is not None
    fields = description_of(packet)
    assert fields[f"{IPTC}AIPromptInformation"] == fields[f"{{{NAMESPACE}}}NegativePrompt"] == HOSTILE
    assert as_exiftool_reads(file, format, tmp_path)["XMP-iptcExt:DigitalSourceType"] == DIGITAL_SOURCE_TYPE


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_any_prompt_gives_well_formed_xml(prompt: str) -> None:
    read = description_of(provenance(prompt=prompt).to_xmp("full"))[f"{IPTC}AIPromptInformation"]
    assert len(read) == len(prompt)
    assert all(mine == its or its == "\ufffd" for mine, its in zip(prompt, read, strict=True))


@pytest.mark.parametrize("text", ['"&', "\U0001f98a", "\n"])
def test_the_longest_prompts_fit_into_a_jpeg(text: str) -> None:
    prompt = text * MAX_PROMPT_CHARS
    packet = provenance(prompt=prompt, negative_prompt=prompt).to_xmp("full")
    assert packet_of(written(OutputFormat.JPEG, packet)) == packet
    assert description_of(packet)[f"{IPTC}AIPromptInformation"] == prompt[:MAX_PROMPT_CHARS]
