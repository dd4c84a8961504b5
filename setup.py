"""Build fastnet._core: the engine once, its kernels once per SIMD level, a private OpenBLAS beside.

Environment: FASTNET_SANITIZE=address,undefined|thread, FASTNET_EMULATE_V4=1 (16-lane kernels on a
machine without AVX-512, for tests), FASTNET_PTHREADS=1 (no OpenMP: what the thread sanitizer can
see), FASTNET_CFLAGS="...". Everything else about the package is in pyproject.toml.
"""

import os
import platform
import re
import shutil
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distribution
from pathlib import Path

import scipy_openblas32 as openblas  # at build time only: see docs/architecture.md
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext as _build_ext
from setuptools.modified import newer_group

LINUX, MAC = sys.platform == "linux", sys.platform == "darwin"
ABI3 = not sysconfig.get_config_var("Py_GIL_DISABLED")
SANITIZE = os.environ.get("FASTNET_SANITIZE", "")
PTHREADS = os.environ.get("FASTNET_PTHREADS", "0" if LINUX else "1") == "1"
EMULATE_V4 = os.environ.get("FASTNET_EMULATE_V4") == "1"

# The same length as the original, so that the SONAME can be replaced in place: a private SONAME
# keeps the dynamic linker from handing us a copy that another package loaded.
OLD, NEW = b"libscipy_openblas.so", b"libopenblas_fastn.so"

V3 = ["-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mf16c", "-mlzcnt", "-mpopcnt"]
V4 = [
    *V3,
    *(f"-mavx512{part}" for part in ("f", "bw", "cd", "dq", "vl")),
    "-mprefer-vector-width=512",
]
LEVELS = {"base": (4, [])}  # name -> lanes, compiler flags
if platform.machine() in ("x86_64", "AMD64"):
    LEVELS |= {"v3": (8, V3), "v4": (16, V3 if EMULATE_V4 else V4)}

CFLAGS = ["-O3", "-std=gnu11", "-ffp-contract=off", "-fvisibility=hidden"]
CFLAGS += ["-fno-math-errno", "-fno-trapping-math"]
CFLAGS += ["-Wall", "-Wextra", "-Wno-psabi", "-Wno-unknown-pragmas"]
CFLAGS += ["-DFN_PTHREADS"] if PTHREADS else ["-fopenmp"]
CFLAGS += ["-DFN_EMULATE_V4"] if EMULATE_V4 else []
LFLAGS = [] if PTHREADS else ["-fopenmp"]
if SANITIZE:
    CFLAGS += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-g", "-O1"]
    CFLAGS += ["-fno-sanitize-recover=undefined"] if "undefined" in SANITIZE else []
    LFLAGS += [f"-fsanitize={SANITIZE}"]
else:
    CFLAGS += ["-g0"]
    LFLAGS += ["-Wl,-z,now", "-Wl,--strip-debug"] * LINUX
CFLAGS += os.environ.get("FASTNET_CFLAGS", "").split()


def shipped():
    """Name in the package -> file, for OpenBLAS, what it needs, and its licence."""
    libraries = (
        p
        for p in Path(openblas.get_lib_dir()).iterdir()
        if re.search(r"\.(so|dylib)(\.|$)", p.name)
    )
    files = {NEW.decode() if p.name == OLD.decode() else p.name: p for p in sorted(libraries)}
    licence = next(f for f in distribution("scipy-openblas32").files if f.name == "LICENSE.txt")
    return files | {"LICENSE-openblas.txt": Path(licence.locate())}


class build_ext(_build_ext):  # noqa: N801 - the command's name
    """Compile kernels per SIMD level; link with a staged OpenBLAS and ship it in the package."""

    def run(self):
        stage = Path(self.build_temp, "openblas")
        stage.mkdir(parents=True, exist_ok=True)
        for name, source in shipped().items():
            data = source.read_bytes()
            if name == NEW.decode():
                if b"\0" + OLD + b"\0" not in data:
                    raise RuntimeError(f"{source.name}: unexpected SONAME")
                data = data.replace(b"\0" + OLD + b"\0", b"\0" + NEW + b"\0")
            (stage / name).write_bytes(data)
        for ext in self.extensions:
            ext.library_dirs += [str(stage), openblas.get_lib_dir()]
            ext.libraries += [NEW.decode()[3:-3] if LINUX else openblas.get_library()]
        super().run()
        package = Path(self.get_ext_fullpath("fastnet._core")).parent
        for name in shipped():
            shutil.copy2(stage / name, package / name)

    def build_extension(self, ext):
        sources = sorted(
            map(str, [*Path("csrc/ops").glob("*.c"), *Path("csrc/kernels").glob("*.c")])
        )
        jobs = [(level, source) for level in LEVELS for source in sources]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ext.extra_objects = list(pool.map(lambda job: self.compile_level(ext, *job), jobs))
        ext.depends = [*ext.depends, *sources]  # link again when only a kernel has changed
        super().build_extension(ext)

    def compile_level(self, ext, level, source):
        lanes, flags = LEVELS[level]
        folder = Path(self.build_temp, level)
        target = folder / Path(source).with_suffix(".o")
        if newer_group([source, *ext.depends], str(target)) or self.force:
            macros = [("FN_LEVEL", level), ("FN_LANES", str(lanes))]
            self.compiler.compile(
                [source],
                str(folder),
                macros,
                ext.include_dirs,
                extra_postargs=[*ext.extra_compile_args, *flags],
            )
        return str(target)

    def get_outputs(self):
        return super().get_outputs() + [
            str(Path(self.build_lib, "fastnet", name)) for name in shipped()
        ]


core = Extension(
    "fastnet._core",
    [
        "fastnet/_core.pyx",
        *sorted(map(str, [*Path("csrc").glob("*.c"), *Path("csrc/kmeans").glob("*.c")])),
    ],
    depends=[
        "fastnet/_engine.pxi",
        "fastnet/_kmeans.pxi",
        "fastnet/_machine.pxi",
        "fastnet/_params.pxi",
        *sorted(str(p) for p in Path("csrc").rglob("*") if p.suffix in (".h", ".def")),
    ],
    include_dirs=["csrc", openblas.get_include_dir()],
    runtime_library_dirs=["@loader_path" if MAC else "$ORIGIN"],
    define_macros=[("Py_LIMITED_API", "0x030b0000")] * ABI3,
    extra_compile_args=CFLAGS,
    extra_link_args=LFLAGS,
    py_limited_api=ABI3,
)
setup(
    ext_modules=cythonize(
        [core], build_dir="build/cython", compiler_directives={"language_level": 3}
    ),
    cmdclass={"build_ext": build_ext},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if ABI3 else {},
)
