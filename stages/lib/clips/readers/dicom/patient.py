"""The patient of a DICOM file, as a salted hash: nothing else about a person is read from the header."""

import hashlib
import os
import secrets
from pathlib import Path

from pydicom import dcmread

from stages.lib.clips import catalogue
from stages.lib.clips.readers.dicom import header
from stages.lib.clips.readers.recording import Unreadable
from stages.lib.params import UserError, require

UNKNOWN = {*catalogue.UNKNOWN, "", "0"}
OTHER_IMAGES = {"CR", "CT", "DX", "MG", "MR", "NM", "PT", "RF", "XA"}  # modalities that show no ultrasound
LEAST_SALT = 16


def salt(folder: Path) -> bytes:
    """The secret that makes the hashes of a source's folder: SONOPAIR_SALT, or else <folder>_salt.txt, made at the first run.

    Raises:
        UserError: the salt is too short, or the file cannot be read or written.
    """
    given = os.environ.get("SONOPAIR_SALT", "")
    require(not given or len(given) >= LEAST_SALT, f"SONOPAIR_SALT has {len(given)} characters; give {LEAST_SALT} or more")
    if given:
        return given.encode()
    path = folder.with_name(f"{folder.name}_salt.txt")
    try:
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(32) + "\n", encoding="ascii")
        secret = path.read_bytes().strip()
    except OSError as error:
        raise UserError(f"{path} cannot be read or written ({error.strerror}); set SONOPAIR_SALT to a secret text") from None
    require(len(secret) >= LEAST_SALT, f"{path} has {len(secret)} characters; write {LEAST_SALT} or more into it, or "
            "remove it, so that the next run makes one")
    return secret


def is_dicom(path: Path) -> bool:
    """Whether a path is a DICOM file that may be read, by its first bytes."""
    if not (catalogue.may_be_read(path) and path.is_file()):
        return False
    with path.open("rb") as file:
        return header.is_dicom(file.read(132))


def identity(path: Path, secret: bytes) -> tuple[str, bool]:
    """The hash of PatientID, '' where it is empty or says unknown; whether the file can be ultrasound.

    Its issuer does not count: if only some files of a patient state it, the patient would become two.
    """
    tags = ["PatientID", "Modality"]
    try:
        with header.quiet():
            elements = dcmread(path, stop_before_pixels=True, force=True, specific_tags=tags)
            name, modality = (" ".join(str(elements.get(tag) or "").split()) for tag in tags)
    except Unreadable:  # the reader says so, too
        return "", True
    if name.casefold() in UNKNOWN:
        return "", modality not in OTHER_IMAGES
    digest = hashlib.blake2b(name.encode(), key=secret[:64], digest_size=8)
    return digest.hexdigest(), modality not in OTHER_IMAGES
