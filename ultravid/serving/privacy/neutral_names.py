"""Names of outputs that reveal nothing about a patient, and messages with these names."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path

from ultravid.serving.privacy.patient_values import PatientValues, patient_values
from ultravid.utils.file_io import replace_file

__all__ = ["KEY_FILE", "NeutralNames", "output_key"]

KEY_FILE = ".ultravid_key"
"""In the output folder: 32 bytes that neutral names, pseudonyms and new UIDs are derived with. Who has them can find out whether a
known name is among the inputs, so it is left out when outputs are handed on."""


def output_key(folder: Path) -> bytes:
    """The key of an output folder, made when it is first asked for.

    Args:
        folder: the output folder; it is created if it does not exist.

    Returns:
        32 bytes, which the folder keeps in a file that only the owner may read.

    Raises:
        OSError: it can't be read or written.
    """
    path = folder / KEY_FILE
    if path.is_file() and len(key := path.read_bytes()) == 32:
        return key
    key = secrets.token_bytes(32)
    folder.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(key)
    return key


class NeutralNames:
    """Names of the outputs of a folder's sources.

    A name that is made of the source's own is kept, unless a value of the source's DICOM header that names a patient, a visit or a
    hospital occurs in it: then it is ``recording-`` and eight hexadecimal digits, the same whenever the command is repeated.

    Args:
        folder: the folder of the outputs; its key is made when a name is replaced for the first time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._replaced: dict[str, str] = {}
        self._telling: dict[str, str] = {}  # names of files of which the same holds, apart from their folders
        self._renamed: set[Path] = set()

    @property
    def num_replaced(self) -> int:
        """How many sources have a neutral name instead of the name of their file."""
        return len(self._renamed)

    def of(self, path: Path | None, name: str, values: PatientValues | None = None) -> str:
        """The name under which a source's outputs are written.

        Args:
            path: the path of the source; None: it is no file.
            name: the wanted name, made of the source's file and folders.
            values: the values of the source, if they are known; None: they are read.
        """
        values = patient_values(path) if values is None else values
        if path is not None and values.occur_in(str(path)):
            # Messages about it name it neutrally whether its output's name is kept or not.
            self._replaced[str(path)] = neutral = self._neutral(path)
            self._telling |= {part: neutral for part in (path.name, path.stem) if values.occur_in(part)}
        if not values.occur_in(name):
            return name
        assert path is not None, "only a file has such values"
        self._renamed.add(path)
        neutral = self._neutral(path)
        self._replaced[str(path)] = neutral
        return neutral

    def scrub(self, text: str) -> str:
        """A message with neutral names in place of the paths that hold a patient's values.

        Args:
            text: the message.
        """
        for path, neutral in sorted(self._replaced.items(), key=lambda item: -len(item[0])):
            for spelling in dict.fromkeys((path, os.path.realpath(path))):
                text = text.replace(spelling, neutral)
        for name, neutral in sorted(self._telling.items(), key=lambda item: -len(item[0])):
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", neutral, text)  # the name "a" is not in every word
        return text

    def _neutral(self, path: Path) -> str:
        place = os.path.realpath(path).encode("utf-8", "surrogateescape")
        return f"recording-{hashlib.blake2b(place, key=output_key(self._folder), digest_size=4).hexdigest()}"
