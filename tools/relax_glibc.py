"""Let two extension modules that were built for glibc 2.39 load on an older glibc.

ml-metadata and tensorflow-data-validation publish manylinux_2_39 wheels only. What they take from the newer
C and C++ libraries is a handful of symbols with older equivalents, so on Debian 12 (glibc 2.36) the references are
renamed and the version requirements that are then unused are dropped. Only the names listed here are touched; any other
requirement that this machine lacks is an error. Running it again changes nothing. On glibc >= 2.39 it does nothing.
"""

import platform
import re
import sysconfig
from pathlib import Path

import lief

EXTENSION_MODULES = (
    "ml_metadata/metadata_store/pywrap/metadata_store_extension.so",
    "tensorflow_data_validation/pywrap/tensorflow_data_validation_extension.so",
)
RENAMED = {
    "__isoc23_strtol": "strtol",
    "__isoc23_strtoul": "strtoul",
    "__isoc23_strtoll": "strtoll",
    "__isoc23_strtoull": "strtoull",
    # Announces that <iostream> is initialised by the library; libstdc++ does that itself. Never called.
    "_ZSt21ios_base_library_initv": "_ZNSt8ios_base4InitC1Ev",
    # Both end in std::terminate; the newer one takes the exception object first.
    "__cxa_call_terminate": "_ZSt9terminatev",
}
DROPPED = {"GLIBC_2.38", "GLIBCXX_3.4.32", "CXXABI_1.3.15"}
NEWEST_OF_DEBIAN_12 = {"GLIBC": (2, 36), "GLIBCXX": (3, 4, 30), "CXXABI": (1, 3, 13)}


def too_new(version: str) -> bool:
    match = re.fullmatch(r"(GLIBC|GLIBCXX|CXXABI)_([\d.]+)", version)
    if not match:
        return False
    return tuple(int(part) for part in match[2].split(".")) > NEWEST_OF_DEBIAN_12[match[1]]


def relax(path: Path) -> bool:
    """Rewrites one shared object in place; returns whether anything had to change."""
    binary = lief.ELF.parse(str(path))
    if binary is None:
        raise SystemExit(f"{path}: not an ELF file; reinstall the package and run this again")
    required = {aux.name for need in binary.symbols_version_requirement for aux in need.get_auxiliary_symbols()}
    unknown = {name for name in required if too_new(name)} - DROPPED
    if unknown:
        raise SystemExit(
            f"{path}: requires {sorted(unknown)}, which this machine's C library lacks and this script does not know "
            "how to replace. Use a system with glibc >= 2.39 (Ubuntu 24.04), or pin the older wheel."
        )
    if not required & DROPPED:
        return False
    for symbol in binary.dynamic_symbols:
        name = str(symbol.name)
        version = symbol.symbol_version
        newer = (
            version is not None
            and version.has_auxiliary_version
            and str(version.symbol_version_auxiliary.name) in DROPPED
        )
        if name in RENAMED:
            symbol.name = RENAMED[name]
            version.as_global()
        elif newer:
            raise SystemExit(
                f"{path}: symbol {name} needs {version.symbol_version_auxiliary.name}; no replacement known"
            )
    for need in binary.symbols_version_requirement:
        for aux in list(need.get_auxiliary_symbols()):
            if aux.name in DROPPED:
                need.remove_aux_requirement(aux.name)
    temporary = path.with_suffix(".so.relaxed")
    binary.write(str(temporary))
    temporary.chmod(path.stat().st_mode)
    temporary.replace(path)
    return True


def main() -> None:
    library, version = platform.libc_ver()
    if library != "glibc" or tuple(int(part) for part in version.split(".")[:2]) >= (2, 39):
        return
    site_packages = Path(sysconfig.get_path("platlib"))
    for name in EXTENSION_MODULES:
        path = site_packages / name
        if not path.exists():
            raise SystemExit(f"{path}: not found; install requirements.lock first")
        if relax(path):
            print(f"glibc {version}: relaxed {name}")


if __name__ == "__main__":
    main()
