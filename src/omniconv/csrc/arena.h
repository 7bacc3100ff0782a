// SPDX-License-Identifier: Apache-2.0
// Pieces of one stretch of scratch memory, each aligned to a cache line.
#pragma once

#include <cstdint>

namespace omniconv {
namespace {

constexpr int64_t LINE = 64;

inline int64_t whole_lines(int64_t bytes) { return (bytes + LINE - 1) / LINE * LINE; }

// Floats in an odd number of lines that hold so many: rows so far apart do not meet in few places of the cache.
inline int64_t odd_lines(int64_t floats) { return (whole_lines(floats * 4) / LINE | 1) * (LINE / 4); }

struct Arena {
  char* at;

  template <class U>
  U* take(int64_t count) {
    U* piece = reinterpret_cast<U*>(at);
    at += whole_lines(count * int64_t(sizeof(U)));
    return piece;
  }
};

}  // namespace
}  // namespace omniconv
