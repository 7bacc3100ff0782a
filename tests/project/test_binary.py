# SPDX-License-Identifier: Apache-2.0
"""What the compiled library needs and brings: no Python, no C++ of torch, no OpenMP, nothing newer than torch 2.10."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from omniconv.core.library import absent, path
from tree import PACKAGE, ROOT

# What it calls of torch. Each is in the symbol table of torch 2.10.0's libtorch_cpu.so, where a new one must be too:
# pip download torch==2.10.0 --no-deps --platform manylinux_2_28_aarch64 --only-binary=:all:, then nm -D on that file.
OF_TORCH_2_10 = {
    *("aoti_torch_abi_version", "aoti_torch_delete_library_object", "aoti_torch_delete_tensor_object"),
    *("aoti_torch_device_type_cpu", "aoti_torch_dtype_bfloat16", "aoti_torch_dtype_float32"),
    *("aoti_torch_empty_strided", "aoti_torch_get_data_ptr", "aoti_torch_get_device_type", "aoti_torch_get_dim"),
    *("aoti_torch_get_dtype", "aoti_torch_get_sizes", "aoti_torch_get_strides", "aoti_torch_library_def"),
    *("aoti_torch_library_init_fragment", "aoti_torch_library_init_impl"),
    *("aoti_torch_memory_format_contiguous_format", "aoti_torch_new_tensor_handle", "torch_call_dispatcher"),
    *("torch_delete_list", "torch_get_num_threads", "torch_library_impl", "torch_list_get_item", "torch_list_size"),
    *("torch_new_string_handle", "torch_parallel_for"),
}
MANGLED = re.compile(r"_ZN?K?\w*(?:2at|3c10|5torch)\d")
COMPILER = shutil.which("g++") or shutil.which("c++")
needs = pytest.mark.skipif(
    not (shutil.which("nm") and shutil.which("readelf")), reason="nm and readelf, of binutils, are not installed"
)
needs_library = pytest.mark.skipif(bool(absent()), reason=absent())


def said(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def symbols(file, *options):
    """(kind, name without its version) of the symbols of a file."""
    lines = said("nm", *options, str(file)).splitlines()
    return {(words[-2], words[-1].split("@")[0]) for words in map(str.split, lines) if len(words) > 1}


@needs
@needs_library
def test_what_it_calls():
    undefined = {name for _, name in symbols(path(), "-D", "--undefined-only")}
    assert not {name for name in undefined if name.lstrip("_").startswith("Py")}
    assert not set(filter(MANGLED.match, undefined))
    of_torch = {name for name in undefined if re.match(r"(aoti_)?torch_", name)}
    assert len(of_torch) > 10
    assert of_torch - OF_TORCH_2_10 == set(), "look these up in torch 2.10.0 before you add them"


@needs
@needs_library
def test_what_it_brings():
    """A program that loads two libraries must not find the one's functions in the other."""
    shown = {name for _, name in symbols(path(), "-D", "--defined-only")}
    assert not {name for name in shown if "omniconv" in name}
    assert not {name for name in shown if name.startswith("PyInit")}


@needs
@needs_library
def test_what_it_is_linked_with():
    dynamic = said("readelf", "-d", str(path()))
    needed = set(re.findall(r"\(NEEDED\).*\[(.*?)\]", dynamic))
    assert "libtorch_cpu.so" in needed
    assert not {name for name in needed if re.search(r"gomp|omp5|iomp|python|c10|libtorch(_python)?\.so", name)}
    assert not re.search(r"RPATH|RUNPATH", dynamic), "the place of a torch is written into it"
    assert str(PACKAGE).encode() not in path().read_bytes(), "the place where it was built is written into it"


def weak(file):
    return {name for kind, name in symbols(file) if kind in "WwVvu"}


def built_objects():
    return sorted(ROOT.glob("build/*/CMakeFiles/kernels_*.dir/**/kernels*.cpp.o"))


@needs
@pytest.mark.skipif(not built_objects(), reason="no objects of a build stand under build/")
def test_objects_of_an_instruction_set_share_nothing():
    """The copy of a weak symbol that the linker keeps may be one for a processor with wider vectors."""
    for file in built_objects():
        level = re.search(r"kernels_(\w+)\.dir", str(file))[1]
        assert weak(file) == set()
        shown = [name for kind, name in symbols(file) if kind in "TDRB"]
        own = f"_ZN8omniconv{len(level) + 8}kernels_{level}E", f"_ZN8omniconv{len(level)}{level}"
        assert shown
        assert not [name for name in shown if not name.startswith(own)]


@needs
@pytest.mark.skipif(not COMPILER, reason="there is no C++ compiler")
@pytest.mark.parametrize(("text", "found"), [("", set()), ("#include <vector>\nstd::vector<int> a(3);\n", {"vector"})])
def test_without_inlining_they_share_nothing_either(tmp_path, text, found):
    """Where nothing is inlined every function of the standard library that is used shows itself."""
    (tmp_path / "kernels.cpp").write_text(f'{text}#include "{PACKAGE / "csrc" / "kernels.cpp"}"\n')
    options = ["-std=c++17", "-O0", "-fPIC", "-fno-exceptions", "-DOMNICONV_ISA=base"]
    said(COMPILER, *options, "-c", str(tmp_path / "kernels.cpp"), "-o", str(tmp_path / "kernels.o"))
    assert {word for name in weak(tmp_path / "kernels.o") for word in re.findall("vector", name)} == found
    assert bool(weak(tmp_path / "kernels.o")) == bool(found)
