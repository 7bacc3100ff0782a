// SPDX-License-Identifier: Apache-2.0
#include "kept.h"

#include <cstdlib>
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

// Of torch 2.11; older ones have it not.
extern "C" __attribute__((weak)) AOTITorchError torch_from_blob(
    void* data, int64_t dim, const int64_t* sizes, const int64_t* strides, int64_t offset, int32_t dtype,
    int32_t device_type, int32_t device_index, AtenTensorHandle* made, int32_t layout, const uint8_t* metadata,
    int64_t metadata_size, void (*give_back)(void* data, void* context), void* context);

namespace omniconv {
namespace {

constexpr int64_t LEAST_KEPT = 1 << 20, HUGE_PAGE = 2 << 20;
constexpr size_t MOST_DIMENSIONS = 8;
constexpr int32_t STRIDED = 0, ANY_DEVICE = -1;  // torch's numbers
constexpr int64_t LEAST_IN_HUGE_PAGES = 2 * HUGE_PAGE;

void* fresh(int64_t bytes) {
  const int64_t line = bytes < LEAST_IN_HUGE_PAGES ? 64 : HUGE_PAGE, whole = (bytes + line - 1) / line * line;
  void* data = std::aligned_alloc(size_t(line), size_t(whole));
  if (!data) throw std::bad_alloc();
#if defined(__linux__)
  if (line == HUGE_PAGE) madvise(data, size_t(whole), MADV_HUGEPAGE);
#endif
  return data;
}

// While there are users. What is held is at most five quarters of the most that was in use at once.
class Kept {
 public:
  void* take(int64_t bytes) {
    const std::lock_guard<std::mutex> lock(guard);
    if (users == 0) return nullptr;
    free.reserve(free.size() + used.size() + 1);  // so that giving back cannot fail
    size_t found = free.size();  // the narrowest that is wide enough; of equal ones the last given back
    for (size_t at = free.size(); at-- > 0;)
      if (free[at].bytes >= bytes && free[at].bytes <= bytes + bytes / 8 &&
          (found == free.size() || free[at].bytes < free[found].bytes))
        found = at;
    Block block{nullptr, bytes};
    if (found < free.size()) {
      block = free[found];
      free.erase(free.begin() + int64_t(found));
      idle -= block.bytes;
    } else {
      block.data = fresh(bytes);
    }
    used.emplace(block.data, block.bytes);
    busy += block.bytes;
    if (most < busy) most = busy;
    while (!free.empty() && busy + idle > most + most / 4) drop_oldest();
    return block.data;
  }

  void give_back(void* data) {
    const std::lock_guard<std::mutex> lock(guard);
    const auto found = used.find(data);
    const int64_t bytes = found->second;
    used.erase(found);
    busy -= bytes;
    if (users == 0) return std::free(data);
    free.push_back({data, bytes});
    idle += bytes;
  }

  int64_t count(int64_t change) {
    const std::lock_guard<std::mutex> lock(guard);
    users += change;
    if (users == 0) {
      while (!free.empty()) drop_oldest();
      most = busy;
    }
    return busy + idle;
  }

 private:
  struct Block {
    void* data;
    int64_t bytes;
  };

  void drop_oldest() {
    idle -= free.front().bytes;
    std::free(free.front().data);
    free.erase(free.begin());
  }

  std::mutex guard;
  int64_t users = 0, busy = 0, idle = 0, most = 0;  // the last three in bytes
  std::unordered_map<void*, int64_t> used;
  std::vector<Block> free;  // the one that was given back first stands first
};

Kept& kept() {
  static Kept* one = new Kept;  // never deleted: tensors may outlive what is deleted at exit
  return *one;
}

// How many users there are now is `change` more; returns the bytes that are held.
int64_t keep_memory(int64_t change) { return torch_from_blob ? kept().count(change) : 0; }

Tensor kept_empty(Tensor like, Numbers sizes) {
  const Seen seen = check("like", like, Seen(like).dim);
  for (const int64_t size : sizes) STD_TORCH_CHECK(size >= 0, "`sizes` must not be negative");
  STD_TORCH_CHECK(sizes.size() <= MOST_DIMENSIONS, "`sizes` must be at most ", MOST_DIMENSIONS);
  return empty(sizes.data(), int64_t(sizes.size()), seen, false);
}

}  // namespace

std::optional<Tensor> in_kept_memory(const int64_t* sizes, const int64_t* strides, int64_t dim, int32_t dtype,
                                     int64_t bytes) {
  void* data = bytes < LEAST_KEPT || !torch_from_blob ? nullptr : kept().take(bytes);
  if (!data) return std::nullopt;
  AtenTensorHandle made;
  const auto give_back = [](void* of, void*) { kept().give_back(of); };
  const AOTITorchError failed = torch_from_blob(data, dim, sizes, strides, 0, dtype, aoti_torch_device_type_cpu(),
                                                ANY_DEVICE, &made, STRIDED, nullptr, 0, give_back, nullptr);
  if (failed) kept().give_back(data);
  STABLE_TORCH_ERROR_CODE_CHECK(failed);
  return Tensor(made);
}

STABLE_TORCH_LIBRARY_FRAGMENT(omniconv, library) {
  library.def("keep_memory(int change) -> int");
  library.def("kept_empty(Tensor like, int[] sizes) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(omniconv, CompositeExplicitAutograd, library) {
  library.impl("keep_memory", TORCH_BOX(&keep_memory));
  library.impl("kept_empty", TORCH_BOX(&kept_empty));
}

}  // namespace omniconv
