// SPDX-License-Identifier: Apache-2.0
// Operators that were recorded once, called again one after the other: what Python does between them, which costs as
// much as small convolutions do, is left out. core/replay.py writes the program and says when it may run. Results of
// this library's own lie in memory that the thread keeps: the system gives fresh pages slowly.
#include <torch/csrc/stable/stableivalue_conversions.h>

#include <cstring>
#include <string>

#include "tensors.h"

namespace omniconv {
namespace {

using torch::stable::detail::from;
using torch::stable::detail::to;
using Tensors = std::vector<Tensor>;

// What an argument is, as core/replay.py writes it.
enum Kind : int64_t { NONE, TENSOR, INTEGER, FLOATING, BOOLEAN, WORD, INTEGERS, TENSORS, FLOATINGS, TYPE, FORMAT };
constexpr int64_t OPTIONAL = 16;  // added to a kind where the schema's argument may be absent

// A program: numbers read one by one, and texts in the words that they take.
struct Program {
  const int64_t* words;
  int64_t length;
  int64_t at = 0;

  int64_t next() {
    STD_TORCH_CHECK(at < length, "the program ends early");
    return words[at++];
  }
  int64_t count() {
    const int64_t found = next();
    STD_TORCH_CHECK(found >= 0 && found <= length, "the program has a wrong count");
    return found;
  }
  // Eight letters a word, the last of them zero.
  const char* text() {
    const int64_t taken = count();
    STD_TORCH_CHECK(taken > 0 && taken <= length - at, "the program ends in a text");
    const char* found = reinterpret_cast<const char*>(words + at);
    at += taken;
    STD_TORCH_CHECK(found[8 * taken - 1] == 0, "the program has a text without an end");
    return found;
  }
};

struct Registers {
  std::vector<MaybeTensor> held;

  MaybeTensor& at(int64_t number) {
    STD_TORCH_CHECK(number >= 0 && number < int64_t(held.size()), "the program names a register that is not there");
    return held[size_t(number)];
  }
  const Tensor& tensor(int64_t number) {
    MaybeTensor& found = at(number);
    STD_TORCH_CHECK(found, "the program reads a register that is empty");
    return *found;
  }
};

double floating(int64_t word) {
  double found;
  std::memcpy(&found, &word, sizeof found);
  return found;
}

template <class T>
StableIValue given(bool optional, T value) {
  return optional ? from(std::optional<T>(std::move(value))) : from(std::move(value));
}

StableIValue argument(Program& program, Registers& registers) {
  const int64_t tag = program.next(), kind = tag % OPTIONAL;
  const bool optional = tag >= OPTIONAL;
  switch (kind) {
    case NONE: return from(std::nullopt);
    case TENSOR: return given(optional, Tensor(registers.tensor(program.next())));
    case INTEGER: return given(optional, program.next());
    case FLOATING: return given(optional, floating(program.next()));
    case BOOLEAN: return given(optional, program.next() != 0);
    case WORD: return given(optional, std::string(program.text()));
    case INTEGERS: {
      std::vector<int64_t> found(size_t(program.count()));
      for (int64_t& one : found) one = program.next();
      return given(optional, std::move(found));
    }
    case TENSORS: {
      Tensors found;
      for (int64_t left = program.count(); left > 0; --left) found.push_back(registers.tensor(program.next()));
      return given(optional, std::move(found));
    }
    case FLOATINGS: {
      std::vector<double> found(size_t(program.count()));
      for (double& one : found) one = floating(program.next());
      return given(optional, std::move(found));
    }
    case TYPE:
    case FORMAT: {  // numbers of torch's own enumerations, which stand for themselves
      const StableIValue found = from(int32_t(program.next()));
      return optional ? from(std::optional<int32_t>(int32_t(found))) : found;
    }
    default: STD_TORCH_CHECK(false, "the program has an argument of an unknown kind");
  }
}

// What a result is to lie in, until the operator has returned.
struct Lending {
  Lending(char* memory, int64_t at, int64_t bytes) { lent() = {at < 0 ? nullptr : memory + at, bytes}; }
  ~Lending() { lent().data = nullptr; }
};

void call(Program& program, Registers& registers, std::vector<StableIValue>& stack, char* memory, int64_t room) {
  const int64_t at = program.next(), bytes = program.next();
  STD_TORCH_CHECK(at < 0 || (bytes >= 0 && at <= room && bytes <= room - at), "the program lends what is not there");
  const char* name = program.text();
  const char* overload = program.text();
  const int64_t arguments = program.count();
  stack.assign(size_t(arguments), 0);
  for (StableIValue& one : stack) one = argument(program, registers);
  const int64_t listed = program.next(), results = program.count();
  if (int64_t(stack.size()) < results) stack.resize(size_t(results));
  if (stack.empty()) stack.resize(1);
  {
    const Lending lending(memory, at, bytes);
    TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION));
  }
  if (listed) {
    Tensors found = to<Tensors>(stack[0]);
    STD_TORCH_CHECK(int64_t(found.size()) == results, "a list has another length than it had when it was recorded");
    for (Tensor& one : found) registers.at(program.next()) = std::move(one);
  } else {
    for (int64_t one = 0; one < results; ++one) registers.at(program.next()) = to<Tensor>(stack[size_t(one)]);
  }
  for (int64_t left = program.count(); left > 0; --left) registers.at(program.next()).reset();
}

// The tensors are the first registers; the results are those that the program names first.
Tensors replay(Tensors tensors, Tensor written) {
  const Seen seen(written);
  STD_TORCH_CHECK(seen.dtype == aoti_torch_dtype_int64() && seen.dim == 1 && seen.contiguous(),
                  "a program is a line of 64-bit integers");
  Program program{static_cast<const int64_t*>(written.data_ptr()), seen.sizes[0]};
  Registers registers;
  registers.held.assign(size_t(program.count()), std::nullopt);
  STD_TORCH_CHECK(tensors.size() <= registers.held.size(), "the program takes fewer tensors");
  for (size_t one = 0; one < tensors.size(); ++one) registers.held[one] = std::move(tensors[one]);
  std::vector<int64_t> wanted(size_t(program.count()));
  for (int64_t& one : wanted) one = program.next();
  const int64_t room = program.next();
  STD_TORCH_CHECK(room >= 0, "the program asks for less than no memory");
  char* memory = room ? static_cast<char*>(lendable(room)) : nullptr;
  std::vector<StableIValue> stack;
  for (int64_t left = program.count(); left > 0; --left) call(program, registers, stack, memory, room);
  Tensors found;
  for (const int64_t one : wanted) found.push_back(registers.tensor(one));
  return found;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(omniconv, library) { library.def("replay(Tensor[] tensors, Tensor program) -> Tensor[]"); }

STABLE_TORCH_LIBRARY_IMPL(omniconv, CompositeExplicitAutograd, library) { library.impl("replay", TORCH_BOX(&replay)); }

}  // namespace omniconv
