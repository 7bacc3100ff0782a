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
    *("aoti_torch_dtype_int64", "torch_list_push_back", "torch_new_list_reserve_size"),
    "aoti_torch_create_tensor_from_blob",
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
    newer = {name for kind, name in symbols(path(), "-D", "--undefined-only") if kind in "wv"} & of_torch
    assert newer == {"torch_from_blob"}, "the library asks whether these are there, and does without"
    assert of_torch - newer - OF_TORCH_2_10 == set(), "look these up in torch 2.10.0 before you add them"


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


CSRC = PACKAGE / "csrc"
KERNELS = sorted(file.name for file in CSRC.glob("kernels*.cpp"))
# What the files of one instruction set call of each other.
ENTRIES = set(re.findall(r"^\w+ (\w+)\(", (CSRC / "isa_entries.h").read_text(), re.MULTILINE))


def shown(file, level):
    """The names that an object of an instruction set shows to others, without the namespaces that they must be in."""
    found = set()
    for name in (name for kind, name in symbols(file) if kind in "TDRB"):
        inner = re.match(rf"_ZN8omniconv(?:{len(level)}{level})?(\d+)", name)
        assert inner, name
        found.add(name[inner.end() :][: int(inner[1])])
    return found


def built_objects():
    """By the folder of a build and instruction set: the objects of each of its files."""
    found = {}
    for folder in sorted(ROOT.glob("build/*/CMakeFiles/kernels_*.dir")):
        files = {file.name.removesuffix(".o"): file for file in folder.glob("**/kernels*.cpp.o")}
        if files:
            found[folder] = files
    return found


@needs
@pytest.mark.skipif(not built_objects(), reason="no objects of a build stand under build/")
def test_objects_of_an_instruction_set_share_nothing():
    """The copy of a weak symbol that the linker keeps may be one for a processor with wider vectors."""
    for folder, files in built_objects().items():
        level = re.search(r"kernels_(\w+)\.dir", folder.name)[1]
        assert sorted(files) == KERNELS, f"{folder} is of another state; build anew"
        names = {name: shown(file, level) for name, file in files.items()}
        assert not [name for name, file in files.items() if weak(file)]
        assert names["kernels.cpp"] == {f"kernels_{level}", "sums"}
        assert names["kernels_dynamic.cpp"] == {"dynamic", "dynamic_gradient"}
        assert names["kernels_norm.cpp"] == {"norm_sums", "normalize"}
        assert names["kernels_implicit.cpp"] == {"implicit", "pack_implicit"}
        others = names["kernels_dynamic.cpp"] | names["kernels_norm.cpp"] | names["kernels_implicit.cpp"]
        assert names["kernels_pointwise.cpp"] == ENTRIES - {"sums"} - others


@needs
@pytest.mark.skipif(not COMPILER, reason="there is no C++ compiler")
@pytest.mark.parametrize(("text", "found"), [("", set()), ("#include <vector>\nstd::vector<int> a(3);\n", {"vector"})])
@pytest.mark.parametrize("name", KERNELS)
def test_without_inlining_they_share_nothing_either(tmp_path, name, text, found):
    """Where nothing is inlined every function of the standard library that is used shows itself."""
    (tmp_path / name).write_text(f'{text}#include "{CSRC / name}"\n')
    options = ["-std=c++17", "-O0", "-fPIC", "-fno-exceptions", "-DOMNICONV_ISA=base"]
    said(COMPILER, *options, "-c", str(tmp_path / name), "-o", str(tmp_path / "kernels.o"))
    assert {word for symbol in weak(tmp_path / "kernels.o") for word in re.findall("vector", symbol)} == found
    assert bool(weak(tmp_path / "kernels.o")) == bool(found)
    if not text:
        assert shown(tmp_path / "kernels.o", "base") <= ENTRIES | {"kernels_base"}
