// SPDX-License-Identifier: Apache-2.0
// Whether packed weights are still those of a call. Torch does not count every change of a tensor, so that some of the
// weights, one of each row and of each column at least, are kept as they were and looked at in every call.
#pragma once

#include "kernels.h"

namespace omniconv {
namespace {

inline int64_t witnesses(const Pointwise& call) { return call.inputs > call.outputs ? call.inputs : call.outputs; }

inline int64_t witness_place(const Pointwise& call, int64_t number) {
  return number % call.outputs * call.weights.row + number % call.inputs * call.weights.column;
}

inline float witness(const Pointwise& call, int64_t number) {
  const int64_t place = witness_place(call, number);
  return call.weights.type == Type::float32 ? static_cast<const float*>(call.weights.data)[place]
                                            : widened(static_cast<const bf16*>(call.weights.data)[place]);
}

// The share of one task among so many. They lie far apart, often each on a page of its own: all are asked for before
// the task computes, and compared behind it.
struct Watch {
  const Pointwise& call;
  int64_t first, end;

  Watch(const Pointwise& of, int64_t task, int64_t tasks) : call(of), first(0), end(0) {
    if (!call.packed || !call.kept) return;
    first = witnesses(call) * task / tasks;
    end = witnesses(call) * (task + 1) / tasks;
    const int64_t bytes = call.weights.type == Type::float32 ? sizeof(float) : sizeof(bf16);
    for (int64_t number = first; number < end; ++number)
      __builtin_prefetch(static_cast<const char*>(call.weights.data) + witness_place(call, number) * bytes, 0, 2);
  }

  // Bit by bit: NaN is like itself.
  bool same() const {
    for (int64_t number = first; number < end; ++number) {
      const float now = witness(call, number);
      if (__builtin_memcmp(&now, call.kept + number, sizeof now)) return false;
    }
    return true;
  }
};

}  // namespace
}  // namespace omniconv
