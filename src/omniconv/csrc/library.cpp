// SPDX-License-Identifier: Apache-2.0
// What the library does once: it picks the instruction set, lends threads and memory, and says what it picked.
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "tensors.h"

namespace omniconv {

#if defined(__x86_64__)
extern const Kernels kernels_v2;
extern const Kernels kernels_v3;
extern const Kernels kernels_v4;
#else
extern const Kernels kernels_base;
#endif

namespace {

// What this processor can run, best first.
std::vector<const Kernels*> able() {
  std::vector<const Kernels*> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) found.push_back(&kernels_v4);
  if (__builtin_cpu_supports("x86-64-v3")) found.push_back(&kernels_v3);
  if (__builtin_cpu_supports("x86-64-v2")) found.push_back(&kernels_v2);
#else
  found.push_back(&kernels_base);
#endif
  return found;
}

// The best, or the one that OMNICONV_ISA names; null where there is none.
const Kernels* pick() {
  const char* wanted = std::getenv("OMNICONV_ISA");
  for (const Kernels* one : able())
    if (!wanted || !*wanted || !std::strcmp(wanted, one->isa)) return one;
  return nullptr;
}

const Kernels* picked = pick();  // again at each call where it found none

void parallel(int64_t count, Body body, void* context) {
  const auto run = [body, context](int64_t begin, int64_t end) { body(context, begin, end); };
  torch::stable::parallel_for(0, count, 1, run);
}

// Kept by each thread between calls: fresh memory costs a page fault for every 4 KiB.
struct Scratch {
  void* data = nullptr;
  int64_t size = 0;
  ~Scratch() { std::free(data); }
};

template <int NUMBER>
void* scratch(int64_t bytes) {
  thread_local Scratch mine;
  if (mine.size < bytes) {
    std::free(mine.data);
    mine.size = 0;
    const int64_t size = (bytes + (2 << 20) - 1) >> 21 << 21;
    mine.data = std::aligned_alloc(2 << 20, size);
    if (!mine.data) throw std::bad_alloc();
    mine.size = size;
#if defined(__linux__)
    madvise(mine.data, mine.size, MADV_HUGEPAGE);  // else its pages miss the first buffer of addresses: 7 % slower
#endif
  }
  return mine.data;
}

std::string isa() { return kernels().isa; }

}  // namespace

void* lendable(int64_t bytes) { return scratch<2>(bytes); }

const Kernels& kernels() {
  if (!picked && !(picked = pick())) {
    std::string names;
    for (const Kernels* one : able()) names += std::string(names.empty() ? "" : ", ") + one->isa;
    const char* wanted = std::getenv("OMNICONV_ISA");
    STD_TORCH_CHECK(!names.empty(), "this processor has none of the instruction sets that the kernels are built for");
    STD_TORCH_CHECK(false, "`OMNICONV_ISA` (=", wanted, ") must be one that this processor has; use ", names, ".");
  }
  return *picked;
}

STABLE_TORCH_LIBRARY_FRAGMENT(omniconv, library) { library.def("isa() -> str"); }

STABLE_TORCH_LIBRARY_IMPL(omniconv, CompositeExplicitAutograd, library) { library.impl("isa", TORCH_BOX(&isa)); }

Host host() { return {parallel, scratch<0>, scratch<1>, int64_t(torch::stable::get_num_threads())}; }

}  // namespace omniconv
