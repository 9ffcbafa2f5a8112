"""Builds the extension `mome_store._core` with CMake and Ninja, and `mome_store._cuda` beside it; everything else is in
pyproject.toml.

`MOME_CUDA` says whether there is a CUDA half: "auto" (the default: where nvcc is found), "on" or "off". `MOME_CMAKE_ARGS` adds arguments to the configure step, for example `-DMOME_SANITIZE=address`.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


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
            f"-DMOME_CUDA={os.environ.get('MOME_CUDA', 'auto').upper()}",
            *shlex.split(os.environ.get("MOME_CMAKE_ARGS", "")),
        ]
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
        for stale in target.parent.glob("_cuda*.so"):
            stale.unlink()
        jobs = str(self.parallel or os.cpu_count() or 1)
        subprocess.run(configure, check=True, env=environment)
        subprocess.run(
            ["cmake", "--build", str(build), "--target", "extension", "--parallel", jobs], check=True, env=environment
        )


setup(ext_modules=[Extension("mome_store._core", sources=[])], cmdclass={"build_ext": CMakeBuild})
