"""What an image file says of its origin: an XMP packet, for readers of the IPTC photo metadata standard.

IPTC's `DigitalSourceType` marks the image as made by a trained model, and since version 2025.1 the standard
has fields for the model and the prompt; seed and style IDs have a namespace of our own. Nothing in a packet
depends on the time: the same request gives the same bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

from service import __version__
from service.settings import MetadataChoice

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
NAMESPACE = "urn:atelier:provenance:1.0:"
# A JPEG holds a packet of 65,502 bytes: two prompts of this length fit with each character escaped.
MAX_PROMPT_CHARS = 5000
# What no XML document may hold, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PACKET = """\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about=""
 xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:atelier="{namespace}"
{attributes}>{styles}</rdf:Description>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


@dataclass(frozen=True, slots=True)
class Provenance:
    """How one image was made. The prompts are written with `full` metadata alone."""

    model: str
    fingerprint: str  # of the model
    seed: int
    style_ids: tuple[str, ...] = ()
    prompt: str = ""
    negative_prompt: str = ""

    def to_xmp(self, choice: MetadataChoice) -> bytes:
        """The packet in UTF-8; empty for `none`."""
        if choice == "none":
            return b""
        fields = {
            "Iptc4xmpExt:DigitalSourceType": DIGITAL_SOURCE_TYPE,
            "Iptc4xmpExt:AISystemUsed": self.model,
            "Iptc4xmpExt:AISystemVersionUsed": self.fingerprint,
            "xmp:CreatorTool": f"Atelier {__version__}",
            "atelier:Seed": str(self.seed),
        }
        if choice == "full":
            fields["Iptc4xmpExt:AIPromptInformation"] = self.prompt[:MAX_PROMPT_CHARS]
            if self.negative_prompt:
                fields["atelier:NegativePrompt"] = self.negative_prompt[:MAX_PROMPT_CHARS]
        attributes = "\n".join(f" {name}={_quoted(text)}" for name, text in fields.items())
        items = "".join(f"<rdf:li>{style_id}</rdf:li>" for style_id in self.style_ids)
        styles = f"<atelier:Styles><rdf:Bag>{items}</rdf:Bag></atelier:Styles>" if items else ""
        return _PACKET.format(namespace=NAMESPACE, attributes=attributes, styles=styles).encode()


def _quoted(text: str) -> str:
    """As an attribute's value, which keeps line breaks; U+FFFD in place of what XML does not have."""
    return quoteattr(_NOT_XML.sub("\ufffd", text))
