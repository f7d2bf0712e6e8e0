"""Wheels of installed packages with something changed in them."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from importlib.metadata import distribution
from pathlib import Path


def doctored(tmp_path: Path, package: str, version: str, module: str, old: str, new: str) -> Path:
    """A wheel of an installed package with one text replaced in one module, under another version."""
    dist = distribution(package)
    name = package.replace("-", "_")
    wheel = tmp_path / f"{name}-{version}-py3-none-any.whl"
    record = []
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in dist.files or []:
            if ".." in file.parts or "__pycache__" in file.parts or file.name in ("RECORD", "INSTALLER", "REQUESTED"):
                continue
            data = Path(str(dist.locate_file(file))).read_bytes()
            target = str(file)
            if file.parts[0].endswith(".dist-info"):
                target = f"{name}-{version}.dist-info/{'/'.join(file.parts[1:])}"
                if file.name == "METADATA":
                    data = data.replace(f"\nVersion: {dist.version}\n".encode(), f"\nVersion: {version}\n".encode())
            elif target == module:
                assert old.encode() in data, f"{module} has changed"
                data = data.replace(old.encode(), new.encode())
            archive.writestr(target, data)
            mark = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{target},sha256={mark},{len(data)}")
        archive.writestr(
            f"{name}-{version}.dist-info/RECORD", "\n".join([*record, f"{name}-{version}.dist-info/RECORD,,"])
        )
    return wheel
