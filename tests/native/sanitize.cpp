// SPDX-License-Identifier: Apache-2.0
// Runs every entry of the kernels of one instruction set on random geometries, each answer compared with a plain loop.
//
// Compiled with sanitizers and without torch: `make sanitize`. Every tensor, and all memory that kernels ask for, is a
// stretch of the heap of just its size, so that a sanitizer sees one element read or written beyond it. A new entry of
// `Kernels` is a function of a Trial and a row of ENTRIES.
//
//   sanitize                             prints the instruction sets of this processor
//   sanitize ISA COUNT [FIRST [FAULT]]   runs the geometries FIRST … FIRST + COUNT - 1; with a fault, kernels of which
//                                        one is wrong: an answer, or memory, or arithmetic, which must not pass
#include <csignal>
#include <cstdio>
#include <memory>
#include <thread>

#include "drawn_cases.h"
#include "kernels.h"
#include "plain_loops.h"

namespace omniconv {

#if defined(__x86_64__)
extern const Kernels kernels_v2, kernels_v3, kernels_v4;
#else
extern const Kernels kernels_base;
#endif

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

void* aligned(int64_t bytes) {
  void* made = nullptr;
  if (posix_memalign(&made, 64, bytes)) std::abort();
  std::memset(made, 0xff, bytes);
  return made;
}

void* lend_scratch(int64_t bytes) {
  thread_local std::unique_ptr<void, void (*)(void*)> lent(nullptr, std::free);
  lent.reset(aligned(bytes));
  return lent.get();
}

// One geometry, its tensors in memory, and what is right.
struct Trial {
  const Kernels& kernels;
  Case made;
  Draw draw;
  Laid narrow, wide;
  Memory weights;
  Plain want;
  Host host;
  int64_t answers = 0, wrong = 0;

  Trial(const Kernels& kernels, uint64_t seed)
      : kernels(kernels),
        made(drawn_case(seed)),
        draw{std::mt19937_64(~seed)},
        narrow(made.narrow_sizes(), made.type, made.narrow_layout, made.axes, draw),
        wide(made.wide_sizes(), made.type, made.wide_layout, made.axes, draw),
        weights(made.weights_type, made.heads * made.filter()),
        host{run_parallel, lend_scratch, made.threads} {
    narrow.fill(made.narrow);
    wide.fill(made.wide);
    const Weights shown = read_weights();
    for (size_t at = 0; at < made.weights.size(); ++at)
      write(weights.data, weights.type, shown.head(at / made.filter()) * made.filter() + at % made.filter(),
            made.weights[at]);
    want = plain(made.problem, made.narrow, made.wide, made.weights);
  }

  Weights read_weights() { return made.shown(weights.data, weights.type, made.share, made.heads); }

  void answer(const char* what, int64_t at, double got, double right) {
    ++answers;
    if (got == right) return;
    if (!wrong++)
      std::printf("%s %lld is %.9g and must be %.9g: %s\n", what, static_cast<long long>(at), got, right, now.c_str());
  }

  void answers_in(const char* what, const Memory& memory, const std::vector<double>& right) {
    for (size_t at = 0; at < right.size(); ++at) answer(what, at, memory.at(at), kept(memory.type, right[at]));
  }
};

void sums(Trial& trial, bool scatter) {
  const Case& made = trial.made;
  const Layout layout = trial.draw.among({Layout::ordered, Layout::channels_inner});
  const Sizes sizes = scatter ? made.wide_sizes() : made.narrow_sizes();
  const Laid output(sizes, made.type, layout, made.axes, trial.draw, /*offset=*/false);
  const Memory bias(made.type, sizes.of[1]);
  for (int64_t at = 0; at < bias.count; ++at) write(bias.data, bias.type, at, made.bias[at]);
  trial.kernels.sums(made.problem, scatter, (scatter ? trial.narrow : trial.wide).view(), output.view(),
                     trial.read_weights(), made.biased ? bias.data : nullptr, trial.host);
  const std::vector<double>& right = scatter ? trial.want.wide : trial.want.narrow;
  const int64_t positions = sizes.of[2] * sizes.of[3] * sizes.of[4];
  output.each([&](int64_t number, int64_t at) {
    const double added = made.biased ? made.bias[number / positions % sizes.of[1]] : 0;
    trial.answer("output", number, output.memory.at(at), kept(made.type, right[number] + added));
  });
}

void gather(Trial& trial) { sums(trial, false); }
void scatter(Trial& trial) { sums(trial, true); }

void gradient(Trial& trial) {
  const Case& made = trial.made;
  const Memory of_weights(made.weights_type, made.problem.groups * made.filter());
  const Memory of_bias(made.type, made.problem.groups * made.problem.narrow);
  const View wide = trial.wide.view(), narrow = trial.narrow.view();
  const int64_t floats = trial.kernels.gradient_floats(made.problem, wide, narrow, trial.host);
  const std::unique_ptr<void, void (*)(void*)> workspace(aligned(floats * 4), std::free);
  trial.kernels.gradient(made.problem, wide, narrow, made.shown(of_weights.data, of_weights.type, 1, 0),
                         made.biased ? of_bias.data : nullptr, static_cast<float*>(workspace.get()), trial.host);
  trial.answers_in("weight gradient", of_weights, trial.want.weights);
  if (made.biased) trial.answers_in("bias gradient", of_bias, trial.want.totals);
}

struct Entry {
  const char* name;
  void (*run)(Trial&);
};

constexpr Entry ENTRIES[] = {{"sums, gathered", gather}, {"sums, scattered", scatter}, {"gradient", gradient}};

std::vector<const Kernels*> able() {
#if defined(__x86_64__)
  std::vector<const Kernels*> found;
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v2")) found.push_back(&kernels_v2);
  if (__builtin_cpu_supports("x86-64-v3")) found.push_back(&kernels_v3);
  if (__builtin_cpu_supports("x86-64-v4")) found.push_back(&kernels_v4);
  return found;
#else
  return {&kernels_base};
#endif
}

// Kernels that do something wrong once the right ones are done.
const Kernels* right;
volatile int64_t sink, largest = INT64_MAX;

template <void (*wrong)(const View& output, const Host& host)>
void sums_then(const Problem& problem, bool scatter, const View& input, const View& output, const Weights& weights,
               const void* bias, const Host& host) {
  right->sums(problem, scatter, input, output, weights, bias, host);
  if (problem.batch) wrong(output, host);
}

void answers(const View& output, const Host&) { static_cast<char*>(output.data)[0] ^= 1; }
void reads(const View&, const Host& host) { sink = static_cast<char*>(host.scratch(192))[192]; }
void writes(const View& output, const Host&) { static_cast<char*>(output.data)[-1] = 0; }
void overflows(const View&, const Host&) { sink = largest + 1; }

struct Fault {
  const char* name;
  decltype(Kernels::sums) sums;
};

constexpr Fault FAULTS[] = {{"answers", sums_then<answers>},
                            {"reads", sums_then<reads>},
                            {"writes", sums_then<writes>},
                            {"overflows", sums_then<overflows>}};

Kernels with_fault(const Kernels& kernels, const std::string& name) {
  Kernels wrong = kernels;
  right = &kernels;
  for (const Fault& fault : FAULTS)
    if (name == fault.name) wrong.sums = fault.sums;
  return wrong;
}

int run(const Kernels& kernels, int64_t count, int64_t first) {
  std::signal(SIGABRT, say_now);
  int64_t answers = 0, wrong = 0, calls = 0;
  for (int64_t seed = first; seed < first + count; ++seed) {
    Trial trial(kernels, seed);
    for (const Entry& entry : ENTRIES) {
      now = std::string(entry.name) + " of geometry " + std::to_string(seed) + ": " + trial.made.text();
      entry.run(trial);
      ++calls;
    }
    answers += trial.answers;
    wrong += trial.wrong;
  }
  std::printf("%s: %lld geometries, %lld calls, %lld answers, %lld wrong\n", kernels.isa, static_cast<long long>(count),
              static_cast<long long>(calls), static_cast<long long>(answers), static_cast<long long>(wrong));
  return wrong != 0;
}

}  // namespace
}  // namespace omniconv

extern "C" const char* __asan_default_options() { return "abort_on_error=1"; }
extern "C" const char* __ubsan_default_options() { return "abort_on_error=1:print_stacktrace=1"; }

int main(int count, char** arguments) {
  const std::string wanted = count > 1 ? arguments[1] : "";
  for (const omniconv::Kernels* kernels : omniconv::able()) {
    if (count == 1) std::puts(kernels->isa);
    if (count > 2 && wanted == kernels->isa)
      return omniconv::run(omniconv::with_fault(*kernels, count > 4 ? arguments[4] : ""), std::atoll(arguments[2]),
                           count > 3 ? std::atoll(arguments[3]) : 0);
  }
  return count == 1 ? 0 : 2;
}
