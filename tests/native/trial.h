// SPDX-License-Identifier: Apache-2.0
// What every trial has: a library to run on, a place for what it computes, and answers that are counted.
#pragma once

#include <csignal>
#include <cstdio>
#include <memory>
#include <thread>

#include "kernels.h"
#include "laid_tensors.h"
#include "plain_loops.h"

namespace omniconv {
namespace {

std::string now = "nothing yet";  // what is computed, for the report of a sanitizer

void say_now(int) {
  std::fprintf(stderr, "while computing %s\n", now.c_str());
  std::signal(SIGABRT, SIG_DFL);
  std::abort();
}

void run_parallel(int64_t count, Body body, void* context) {
  std::vector<std::thread> others;
  for (int64_t at = 1; at < count; ++at) others.emplace_back(body, context, at, at + 1);
  body(context, 0, 1);
  for (std::thread& other : others) other.join();
}

using Owned = std::unique_ptr<void, void (*)(void*)>;

Owned aligned(int64_t bytes) {
  void* made = nullptr;
  if (posix_memalign(&made, 64, bytes)) std::abort();
  std::memset(made, 0xff, bytes);
  return {made, std::free};
}

template <int NUMBER>
void* lend(int64_t bytes) {
  thread_local Owned lent(nullptr, std::free);
  lent = aligned(bytes);
  return lent.get();
}

struct Trial {
  const Kernels& kernels;
  Draw draw;
  Host host;
  int64_t calls = 0, answers = 0, wrong = 0;

  Trial(const Kernels& kernels, uint64_t seed, int64_t threads)
      : kernels(kernels), draw{std::mt19937_64(~seed)}, host{run_parallel, lend<0>, lend<1>, threads} {}

  // An output that the library would make: in order, or with its channels inside.
  Laid made(const Sizes& sizes, Type type, int64_t axes) {
    const Layout layout = draw.among({Layout::ordered, Layout::channels_inner});
    return Laid(sizes, type, layout, axes, draw, /*offset=*/false);
  }

  void answer(const char* what, int64_t at, double got, double right) {
    ++answers;
    if (got == right || (std::isnan(got) && std::isnan(right))) return;
    if (!wrong++)
      std::printf("%s %lld is %.9g and must be %.9g: %s\n", what, static_cast<long long>(at), got, right, now.c_str());
  }

  // Exact where no error is allowed; else within it, and half a place of bfloat16.
  void answer(const char* what, int64_t at, Type type, double got, const Near& right) {
    const double error = std::abs(got - right.value);
    const bool close = error <= right.error + (type == Type::bfloat16 ? std::abs(right.value) / 256 : 0);
    answer(what, at, got, right.error == 0 ? kept(type, right.value) : close ? got : right.value);
  }

  void answers_in(const char* what, const Memory& memory, const std::vector<double>& right) {
    for (size_t at = 0; at < right.size(); ++at) answer(what, at, memory.at(at), kept(memory.type, right[at]));
  }

  // bias: of each channel, or null.
  void answers_in(const char* what, const Laid& laid, const std::vector<double>& right, const int* bias) {
    const int64_t channels = laid.sizes.of[1], positions = laid.sizes.of[2] * laid.sizes.of[3] * laid.sizes.of[4];
    laid.each([&](int64_t number, int64_t at) {
      const double added = bias ? bias[number / positions % channels] : 0;
      answer(what, number, laid.memory.at(at), kept(laid.memory.type, right[number] + added));
    });
  }
};

void fill(const Memory& memory, const Values& values) {
  for (int64_t at = 0; at < memory.count; ++at) write(memory.data, memory.type, at, values[at]);
}

// A name and what it runs, of one kind of trial.
template <class Kind>
struct Entry {
  const char* name;
  void (Kind::*run)();
};

}  // namespace
}  // namespace omniconv
