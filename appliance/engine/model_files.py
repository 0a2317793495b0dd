"""Reading the small files of a model's folder, which come from anywhere: only real files, and none without end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from appliance.errors import ModelFileError

SETTINGS_BYTES = 16 * 1024 * 1024
"""Most for a file of settings; the largest known, with a hundred thousand added tokens, have a tenth of this."""
TOKENIZER_BYTES = 256 * 1024 * 1024
"""Most for tokenizer.json; vocabularies of 262,144 tokens with their merges have 33 MB."""
KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"))


def read_text(path: Path, most_bytes: int = SETTINGS_BYTES) -> str:
    """What a file holds. Raises FileNotFoundError or NotADirectoryError where there is none, UnicodeDecodeError where it is no
    text, and ModelFileError where it is no regular file, too large or cannot be read."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            what = next((words for test, words in KINDS if test(found.st_mode)), "something else")
            raise ModelFileError(f"{path} cannot be read: it is {what}, not a file.", remedy="Put the model's own file in its place.")
        # Not blocking: it may have become a pipe just now. One byte more: what is said of the size need not be true.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            data = b"" if found.st_size > most_bytes else file.read(most_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}.", remedy="Check its permissions.") from None
    if max(found.st_size, len(data)) > most_bytes:
        words = f"{path} cannot be read: it has more than {most_bytes >> 20} MiB, as no such file has."
        raise ModelFileError(words, remedy="Download it again.")
    return data.decode("utf-8")
