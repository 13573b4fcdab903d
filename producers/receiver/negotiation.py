"""Which transfer syntax is accepted where a presentation context offers several.

What is easiest to read whole comes first, what has lost something last; a syntax that is not in the table is
taken when nothing else is offered. Pure.
"""

from collections.abc import Sequence
from typing import Final

#: Best first: (transfer syntax UID, name).
TRANSFER_SYNTAX_ORDER: Final[tuple[tuple[str, str], ...]] = (
    ("1.2.840.10008.1.2.1", "Explicit VR Little Endian"),
    ("1.2.840.10008.1.2.1.99", "Deflated Explicit VR Little Endian"),
    ("1.2.840.10008.1.2.8.1", "Deflated Image Frame Compression"),
    ("1.2.840.10008.1.2.4.80", "JPEG-LS Lossless"),
    ("1.2.840.10008.1.2.4.70", "JPEG Lossless, First-Order Prediction"),
    ("1.2.840.10008.1.2.4.57", "JPEG Lossless"),
    ("1.2.840.10008.1.2.4.90", "JPEG 2000 Lossless Only"),
    ("1.2.840.10008.1.2.4.92", "JPEG 2000 Part 2 Multi-component Lossless Only"),
    ("1.2.840.10008.1.2.4.201", "High-Throughput JPEG 2000 Lossless Only"),
    ("1.2.840.10008.1.2.4.202", "High-Throughput JPEG 2000 with RPCL Options Lossless Only"),
    ("1.2.840.10008.1.2.4.110", "JPEG XL Lossless"),
    ("1.2.840.10008.1.2.5", "RLE Lossless"),
    ("1.2.840.10008.1.2", "Implicit VR Little Endian"),
    ("1.2.840.10008.1.2.2", "Explicit VR Big Endian"),
    ("1.2.840.10008.1.2.4.91", "JPEG 2000"),
    ("1.2.840.10008.1.2.4.93", "JPEG 2000 Part 2 Multi-component"),
    ("1.2.840.10008.1.2.4.203", "High-Throughput JPEG 2000"),
    ("1.2.840.10008.1.2.4.112", "JPEG XL"),
    ("1.2.840.10008.1.2.4.111", "JPEG XL JPEG Recompression"),
    ("1.2.840.10008.1.2.4.81", "JPEG-LS Near-lossless"),
    ("1.2.840.10008.1.2.4.51", "JPEG Extended"),
    ("1.2.840.10008.1.2.4.50", "JPEG Baseline"),
)
_DEFAULT: Final = tuple(uid for uid, _ in TRANSFER_SYNTAX_ORDER)


def by_preference(offered: Sequence[str], order: Sequence[str] = ()) -> list[str]:
    """Return the offered syntaxes, the one to accept first.

    Parameters
    ----------
    offered : sequence of str
        As the caller proposed them; its order decides between syntaxes that no table names.
    order : sequence of str
        The source's own order; what it does not name follows in the order of the table.
    """
    ranking = {uid: rank for rank, uid in reversed(list(enumerate((*order, *_DEFAULT))))}
    return sorted(offered, key=lambda uid: ranking.get(uid, len(ranking) + len(order)))
