// SPDX-License-Identifier: Apache-2.0
// Runs every entry of the kernels of one instruction set on random geometries, each answer compared with a plain loop.
//
// Compiled with sanitizers and without torch: `make sanitize`. Every tensor, and all memory that kernels ask for, is a
// stretch of the heap of just its size, so that a sanitizer sees one element read or written beyond it. A new entry of
// `Kernels` is a function of a trial and a row of its entries, and its fault a row of `spoil`.
//
//   sanitize                                     prints the instruction sets of this processor
//   sanitize ISA COUNT [FIRST [FAULT [ENTRY]]]   runs the geometries FIRST … FIRST + COUNT - 1 of each kind; with a
//                                                fault, one entry (`sums`, if none is named) does something wrong: in
//                                                an answer, with memory, or in arithmetic, which must not pass
#include "convolution_trial.h"
#include "deformable_trial.h"
#include "dynamic_trial.h"
#include "fused_trial.h"
#include "implicit_trial.h"
#include "normed_trial.h"
#include "pointwise_trial.h"
#include "separable_trial.h"

namespace omniconv {

#if defined(__x86_64__)
extern const Kernels kernels_v2, kernels_v3, kernels_v4;
#else
extern const Kernels kernels_base;
#endif

namespace {

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

// What an entry does wrong once the right one is done, with what that wrote.
void answers(void* written, const Host&) { static_cast<char*>(written)[0] ^= 1; }
void reads(void*, const Host& host) {
  static volatile char sink;
  sink = static_cast<char*>(host.scratch(192))[192];
  (void)sink;
}
void writes(void* written, const Host&) { static_cast<char*>(written)[-1] = 0; }
void overflows(void*, const Host&) {
  static volatile int64_t largest = INT64_MAX;
  largest = largest + 1;
}

struct Fault {
  const char* name;
  void (*run)(void* written, const Host&);
};

constexpr Fault FAULTS[] = {{"answers", answers}, {"reads", reads}, {"writes", writes}, {"overflows", overflows}};

const Kernels* right;
const Fault* wrong;

// Makes one entry of the kernels do the fault; whether there is such an entry.
bool spoil(Kernels& kernels, const std::string& entry) {
  if (entry == "sums") {
    kernels.sums = [](const Problem& problem, bool scatter, const View& input, const View& output,
                      const Weights& weights, const void* bias, const Host& host) {
      right->sums(problem, scatter, input, output, weights, bias, host);
      if (problem.batch) wrong->run(output.data, host);
    };
  } else if (entry == "gradient") {
    kernels.gradient = [](const Problem& problem, const View& wide, const View& narrow, const Weights& gradient,
                          void* bias, float* workspace, const Host& host) {
      const int64_t floats = right->gradient(problem, wide, narrow, gradient, bias, workspace, host);
      if (workspace) wrong->run(gradient.data, host);
      return floats;
    };
  } else if (entry == "separable") {
    kernels.separable = [](const Problem& problem, const View& input, const View& output, const Weights& column,
                           const Weights& row, const void* bias, const Host& host) {
      right->separable(problem, input, output, column, row, bias, host);
      if (problem.batch) wrong->run(output.data, host);
    };
  } else if (entry == "separable_gradient") {
    kernels.separable_gradient = [](const Problem& problem, const View& input, const View& grad, const Weights& column,
                                    const Weights& row, const SeparableGradients& wanted, float* workspace,
                                    const Host& host) {
      const int64_t floats = right->separable_gradient(problem, input, grad, column, row, wanted, workspace, host);
      if (workspace && wanted.column.data) wrong->run(wanted.column.data, host);
      return floats;
    };
  } else if (entry == "deformable") {
    kernels.deformable = [](const Deformable& call, const Planes& output, const void* bias, float* workspace,
                            const Host& host) {
      const int64_t floats = right->deformable(call, output, bias, workspace, host);
      if (workspace && call.problem.batch) wrong->run(output.data, host);
      return floats;
    };
  } else if (entry == "deformable_gradient") {
    kernels.deformable_gradient = [](const Deformable& call, const Planes& grad, const DeformableGradients& wanted,
                                     float* workspace, const Host& host) {
      const int64_t floats = right->deformable_gradient(call, grad, wanted, workspace, host);
      for (void* written : {wanted.input.data, wanted.offset.data, wanted.mask.data, wanted.weights.data})
        if (workspace && call.problem.batch && written) wrong->run(written, host);
      return floats;
    };
  } else if (entry == "pointwise") {
    kernels.pointwise = [](const Pointwise& call, float* workspace, const Host& host) {
      const int64_t floats = right->pointwise(call, workspace, host);
      if (workspace && call.batch) wrong->run(call.output.data, host);
      return floats;
    };
  } else if (entry == "pack") {
    kernels.pack = [](const Pointwise& call, float* to, const Host& host) {
      const int64_t floats = right->pack(call, to, host);
      if (to) wrong->run(to, host);
      return floats;
    };
  } else if (entry == "pointwise_gradient") {
    kernels.pointwise_gradient = [](const Pointwise& call, const Matrix& gradient, float* workspace,
                                    const Host& host) {
      const int64_t floats = right->pointwise_gradient(call, gradient, workspace, host);
      if (workspace) wrong->run(gradient.data, host);
      return floats;
    };
  } else if (entry == "normed_gradient") {
    kernels.normed_gradient = [](const Normed& norm, const Pointwise& call, const Pointwise* back,
                                 const Matrix& gradient, float* workspace, const Host& host) {
      const int64_t floats = right->normed_gradient(norm, call, back, gradient, workspace, host);
      for (void* written : {gradient.data, back ? back->output.data : nullptr})
        if (workspace && written) wrong->run(written, host);
      return floats;
    };
  } else if (entry == "follow") {
    kernels.follow = [](const Followed& call, const Host& host) {
      right->follow(call, host);
      if (call.rows) wrong->run(call.data, host);
    };
  } else if (entry == "activation_gradient") {
    kernels.activation_gradient = [](const ActivationGradient& call, float* workspace, const Host& host) {
      const int64_t floats = right->activation_gradient(call, workspace, host);
      if (workspace && call.rows) wrong->run(call.to, host);
      return floats;
    };
  } else if (entry == "norm_sums") {
    kernels.norm_sums = [](const Normed& call, double* totals, float* workspace, const Host& host) {
      const int64_t floats = right->norm_sums(call, totals, workspace, host);
      if (workspace && call.rows) wrong->run(totals, host);
      return floats;
    };
  } else if (entry == "normalize") {
    kernels.normalize = [](const Normed& call, const Host& host) {
      right->normalize(call, host);
      if (call.rows) wrong->run(call.to, host);
    };
  } else if (entry == "fused") {
    kernels.fused = [](const Fused& call, float* workspace, const Host& host) {
      const int64_t floats = right->fused(call, workspace, host);
      if (workspace && call.pointwise.batch) wrong->run(call.pointwise.output.data, host);
      return floats;
    };
  } else if (entry == "dynamic") {
    kernels.dynamic = [](const Dynamic& call, const View& output, const void* bias, const Host& host) {
      right->dynamic(call, output, bias, host);
      if (call.problem.batch) wrong->run(output.data, host);
    };
  } else if (entry == "dynamic_gradient") {
    kernels.dynamic_gradient = [](const Dynamic& call, const View& grad, const DynamicGradients& wanted,
                                  float* workspace, const Host& host) {
      const int64_t floats = right->dynamic_gradient(call, grad, wanted, workspace, host);
      for (void* written : {wanted.input.data, wanted.weights.data})
        if (workspace && call.problem.batch && written) wrong->run(written, host);
      return floats;
    };
  } else {
    return false;
  }
  return true;
}

struct Tally {
  int64_t calls = 0, answers = 0, wrong = 0;
};

template <class Kind>
void run_one(const Kernels& kernels, int64_t seed, Tally& tally) {
  Kind trial(kernels, seed);
  for (const Entry<Kind>& entry : Kind::entries) {
    now = std::string(entry.name) + " of geometry " + std::to_string(seed) + ": " + trial.drawn.text();
    (trial.*entry.run)();
    ++tally.calls;
  }
  tally.answers += trial.answers;
  tally.wrong += trial.wrong;
}

int run(const Kernels& kernels, int64_t count, int64_t first) {
  std::signal(SIGABRT, say_now);
  Tally tally;
  for (int64_t seed = first; seed < first + count; ++seed) {
    run_one<ConvolutionTrial>(kernels, seed, tally);
    run_one<SeparableTrial>(kernels, seed, tally);
    run_one<DeformableTrial>(kernels, seed, tally);
    run_one<PointwiseTrial>(kernels, seed, tally);
    run_one<ImplicitTrial>(kernels, seed, tally);
    run_one<NormedTrial>(kernels, seed, tally);
    run_one<FusedTrial>(kernels, seed, tally);
    run_one<DynamicTrial>(kernels, seed, tally);
  }
  const auto shown = [](int64_t number) { return static_cast<long long>(number); };
  std::printf("%s: %lld geometries of each kind, %lld calls, %lld answers, %lld wrong\n", kernels.isa, shown(count),
              shown(tally.calls), shown(tally.answers), shown(tally.wrong));
  return tally.wrong != 0;
}

constexpr int NOT_UNDERSTOOD = 2;

int run_arguments(const std::vector<std::string>& given) {
  if (given.empty()) {
    for (const Kernels* kernels : able()) std::puts(kernels->isa);
    return 0;
  }
  for (const Kernels* kernels : able()) {
    if (given.size() < 2 || given[0] != kernels->isa) continue;
    Kernels used = *kernels;
    right = kernels;
    for (const Fault& fault : FAULTS)
      if (given.size() > 3 && given[3] == fault.name) wrong = &fault;
    if (given.size() > 3 && !(wrong && spoil(used, given.size() > 4 ? given[4] : "sums"))) break;
    return run(used, std::stoll(given[1]), given.size() > 2 ? std::stoll(given[2]) : 0);
  }
  std::fputs("sanitize ISA COUNT [FIRST [FAULT [ENTRY]]]\n", stderr);
  return NOT_UNDERSTOOD;
}

}  // namespace
}  // namespace omniconv

extern "C" const char* __asan_default_options() { return "abort_on_error=1"; }
extern "C" const char* __ubsan_default_options() { return "abort_on_error=1:print_stacktrace=1"; }

int main(int count, char** arguments) { return omniconv::run_arguments({arguments + 1, arguments + count}); }
