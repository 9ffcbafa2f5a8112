"""Builds the extension modules with CMake and Ninja; everything else is in pyproject.toml.

`mome_store._core` is always built, `mome_store._cuda` as the variable MOME_CUDA says: "auto" (the default: where there
is an nvcc that is new enough), "on" or "off". `MOME_CMAKE_ARGS` adds arguments to the configure step, for example
`-DMOME_SANITIZE=address`.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
NVCC_NEEDED = (12, 4)


def cuda_compiler() -> str | None:
    """nvcc, as CMake would find it; None where there is none or it is too old."""
    beside = [Path(home) / "bin" / "nvcc" for home in (os.environ.get("CUDA_PATH"), "/usr/local/cuda") if home]
    for nvcc in filter(None, [os.environ.get("CUDACXX"), shutil.which("nvcc"), *map(str, beside)]):
        try:
            said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            continue
        release = re.search(r"release (\d+)\.(\d+)", said)
        if release is not None and (int(release[1]), int(release[2])) >= NVCC_NEEDED:
            return nvcc
    return None


def with_cuda() -> bool:
    """Whether the CUDA module is to be built."""
    wanted = os.environ.get("MOME_CUDA", "auto").lower()
    if wanted not in ("auto", "on", "off"):
        raise SystemExit(f"MOME_CUDA must be auto, on or off, not {wanted!r}")
    found = wanted != "off" and cuda_compiler() is not None
    if wanted == "on" and not found:
        raise SystemExit(f"MOME_CUDA=on needs nvcc {'.'.join(map(str, NVCC_NEEDED))} or newer; there is none")
    return found


CUDA = with_cuda()


class CMakeBuild(build_ext):
    """Hands each extension to CMake, which writes the module where setuptools expects it."""

    def build_extension(self, ext: Extension) -> None:
        import ninja
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = ROOT / "build" / f"extension-{sys.implementation.cache_tag}"  # kept: the next build is incremental
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake",
            "-G",
            "Ninja",
            "-S",
            str(ROOT),
            "-B",
            str(build),
            f"-DCMAKE_MAKE_PROGRAM={Path(ninja.BIN_DIR) / 'ninja'}",
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DMOME_EXTENSION_DIR={target.parent}",
            "-DMOME_BUILD_EXTENSION=ON",
            "-DMOME_BUILD_TESTS=OFF",
            f"-DMOME_CUDA={'ON' if CUDA else 'OFF'}",
            *([f"-DCMAKE_CUDA_COMPILER={cuda_compiler()}"] if CUDA else []),
            *shlex.split(os.environ.get("MOME_CMAKE_ARGS", "")),
        ]
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
        jobs = str(self.parallel or os.cpu_count() or 1)
        subprocess.run(configure, check=True, env=environment)
        subprocess.run(
            ["cmake", "--build", str(build), "--target", ext.name.rpartition(".")[2], "--parallel", jobs],
            check=True,
            env=environment,
        )


MODULES = ["mome_store._core", *(["mome_store._cuda"] if CUDA else [])]
if not CUDA:
    for stale in (ROOT / "mome_store").glob("_cuda*.so"):
        stale.unlink()  # of an editable install that had it

setup(ext_modules=[Extension(name, sources=[]) for name in MODULES], cmdclass={"build_ext": CMakeBuild})
