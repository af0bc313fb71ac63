"""A partner's file of a business date, kept whole as it was received: to be downloaded, and compared again.

In pieces of bounded size, each compressed by itself, so that neither keeping nor reading holds more than one.
"""

import hashlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import BinaryIO

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from config.errors import Refused
from prepaid.models import PartnerFile, PartnerFilePart, Run

PIECE = 1024**2
MOST_FILES = 3
"""How many files of one business date stay; a damaged one that is fetched every ten minutes must not fill the disk."""


class NoFileKept(Refused):
    status = 404
    text = _("No file of this business date was received and kept.")


class FileLost(Exception):
    """The kept copy is not what was received."""


def keep(run: Run, file: BinaryIO, message_id: str) -> PartnerFile:
    """Keep an open file from its beginning to its end, and leave it at its beginning; the oldest beyond three go."""
    file.seek(0)
    digest = hashlib.sha256()
    with transaction.atomic():
        kept = PartnerFile.objects.create(run=run, message_id=message_id, sha256="", recorded_at=timezone.now())
        while piece := file.read(PIECE):
            digest.update(piece)
            PartnerFilePart.objects.create(file=kept, seq=kept.parts, content=zlib.compress(piece))
            kept.parts += 1
            kept.size += len(piece)
        kept.sha256 = digest.hexdigest()
        kept.save(update_fields=["parts", "size", "sha256"])
        old = list(PartnerFile.objects.filter(run=run).order_by("-id").values_list("pk", flat=True)[MOST_FILES:])
        PartnerFilePart.objects.filter(file__in=old).delete()
        PartnerFile.objects.filter(pk__in=old).delete()
    file.seek(0)
    return kept


def last(run: Run) -> PartnerFile:
    """The file of the run that was received last.

    :raises NoFileKept:
    """
    kept = PartnerFile.objects.filter(run=run).order_by("-id").first()
    if kept is None:
        raise NoFileKept()
    return kept


def pieces(kept: PartnerFile) -> Iterator[bytes]:
    """The file as it was received, a piece at a time.

    :raises FileLost: at its end, if this is not what was received.
    """
    digest = hashlib.sha256()
    for seq in range(kept.parts):
        part = PartnerFilePart.objects.filter(file=kept, seq=seq).values_list("content", flat=True).first()
        if part is None:
            raise FileLost(f"part {seq} is not there")
        try:
            piece = zlib.decompress(bytes(part))
        except zlib.error as fault:
            raise FileLost(f"part {seq} cannot be read: {fault}") from fault
        digest.update(piece)
        yield piece
    if digest.hexdigest() != kept.sha256:
        raise FileLost("the hash differs")


@contextmanager
def opened(kept: PartnerFile) -> Iterator[BinaryIO]:
    """The kept file as an open one, at its beginning, for as long as the block lasts.

    :raises FileLost:
    """
    with TemporaryFile() as file:
        for piece in pieces(kept):
            file.write(piece)
        file.seek(0)
        yield file
